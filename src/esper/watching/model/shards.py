"""Local shards of tensors that are distributed over several processes (FSDP, TP).

Reading a whole `DTensor` is a collective operation. A watch must not start one, because the other
ranks may not call it. So each rank checks its own shard.
"""

import sys
from typing import Any

import torch
from torch import Tensor

_MODULE = "torch.distributed.tensor"
_ORDINARY = frozenset({Tensor, torch.nn.Parameter})


def is_shared(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`."""
    if type(tensor) in _ORDINARY:
        return False
    module: Any = sys.modules.get(_MODULE)  # if it was never imported, there is no DTensor
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor; an ordinary tensor is returned itself."""
    if not is_shared(tensor):
        return tensor
    shared: Any = tensor
    with torch.no_grad():
        part: Tensor = shared.to_local()
        return part


def first_row(tensor: Tensor) -> int:
    """Return the first row of this process's shard in the whole tensor."""
    if not is_shared(tensor):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shared: Any = tensor
    _, offset = compute_local_shape_and_global_offset(
        shared.shape, shared.device_mesh, shared.placements
    )
    return int(offset[0]) if offset else 0

"""The part of a tensor that lies in this process, where several processes share it (FSDP, TP).

Reading a `DTensor` as a whole is a collective, which a watch must not begin: other ranks may not
look at the same time. So each rank looks at its own shard.
"""

import sys
from typing import Any

import torch
from torch import Tensor

_MODULE = "torch.distributed.tensor"


def is_shared(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`, of which this process has a part."""
    module: Any = sys.modules.get(_MODULE)  # importing it takes long; without it there is none
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that lies in this process; all of an ordinary tensor."""
    if not is_shared(tensor):
        return tensor
    shared: Any = tensor
    with torch.no_grad():
        part: Tensor = shared.to_local()
        return part


def first_row(tensor: Tensor) -> int:
    """Return the row of a whole tensor with which its part in this process begins."""
    if not is_shared(tensor):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shared: Any = tensor
    _, offset = compute_local_shape_and_global_offset(
        shared.shape, shared.device_mesh, shared.placements
    )
    return int(offset[0]) if offset else 0

"""Checks of one tensor: whether it is finite, and which non-finite values it contains.

A tensor that cannot be checked, for example because it does not support the operation, counts as
finite. Otherwise it would hide faults elsewhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from esper.watching.model.shards import local

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def values_in(tensor: Tensor) -> Tensor | None:
    """Return the values that a tensor stores, dense and detached; None if it stores none.

    For a sparse tensor, these are its non-zero values. For a tensor that is sharded over several
    processes, they are the values in this process. A tensor on the device "meta" has none.
    """
    tensor = local(tensor.detach())
    if tensor.is_meta:
        return None
    if tensor.layout is torch.sparse_coo:
        return tensor._values()
    if tensor.layout in _COMPRESSED:
        return tensor.values()
    return tensor


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values of a tensor that can be checked are finite."""
    try:
        values = values_in(tensor)
        return values is None or bool(torch.isfinite(values).all())
    except Exception:  # noqa: BLE001 - subclasses of Tensor may raise anything
        return True


def kinds_of(tensor: Tensor) -> tuple[str, ...]:
    """Return the kinds of non-finite values in a tensor: "nan", "+inf", "-inf"."""
    try:
        values = values_in(tensor)
        if values is None:
            return ()
        if values.is_complex():
            values = torch.view_as_real(values.resolve_conj())
        found = {
            "nan": values.isnan().any(),
            "+inf": (values == torch.inf).any(),
            "-inf": (values == -torch.inf).any(),
        }
        return tuple(kind for kind, is_there in found.items() if bool(is_there))
    except Exception:  # noqa: BLE001 - as above
        return ()


@torch.no_grad()
def masks_by_itself(layer: nn.Module, taken: Tensor | None, output: Tensor) -> bool:
    """Return whether all non-finite values in a layer's output are -inf from the layer's mask.

    This can be decided for a subclass of `nn.Linear`: without the mask, its output is finite.

    Args:
        layer: the layer.
        taken: the layer's input; None if unknown.
        output: the layer's output.
    """
    if not isinstance(layer, nn.Linear) or type(layer) is nn.Linear or taken is None:
        return False
    if kinds_of(output) != ("-inf",):
        return False
    try:
        return is_finite(nn.functional.linear(taken.detach(), layer.weight, layer.bias))
    except Exception:  # noqa: BLE001 - for example, compressed weights
        return False


def joined(scalars: Sequence[Tensor | bool], device: torch.device) -> Tensor:
    """Return scalars of any type, on any device, as one tensor on a device."""
    return torch.stack([torch.as_tensor(one).to(device, torch.float32) for one in scalars])


def numbers_of(scalars: Sequence[Tensor | bool]) -> list[float]:
    """Return the numbers in scalars, which waits for their device once.

    On a CPU, reading a number takes a tenth of the time of an operation on it.
    """
    other = next((one for one in scalars if isinstance(one, Tensor) and not one.is_cpu), None)
    if other is None:
        return list(map(float, scalars))
    return joined(scalars, other.device).tolist()

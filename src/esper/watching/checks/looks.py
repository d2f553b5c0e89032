"""Checks of one tensor: whether it is finite, and which non-finite values it contains.

A tensor that cannot be checked, for example because it does not support the operation, counts as
finite, so that it does not hide a fault elsewhere.
"""

import torch
from torch import Tensor, nn

from esper.watching.model.shards import local

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def values_in(tensor: Tensor) -> Tensor | None:
    """Return the values that a tensor stores, dense and detached; None if it stores none.

    Of a sparse tensor those are its non-zero values, of a tensor that several processes share those
    in this process; a tensor on the device "meta" has no values.
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
    except Exception:  # noqa: BLE001 - of a class of its own, which may refuse in any way
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
    """Return whether all non-finite values in a layer's output are the -inf of its own mask.

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
    except Exception:  # noqa: BLE001 - such as one whose weights are compressed
        return False

"""The positions of non-finite values in a tensor."""

from torch import Tensor


def columns_of(tensor: Tensor) -> tuple[int, frozenset[int]] | None:
    """Return the size of the last axis, and the indices along it with non-finite values.

    For a single number that is a view, the axis is the last one of the whole tensor.
    """
    if tensor.ndim:
        bad = (~tensor.isfinite()).reshape(-1, tensor.shape[-1]).any(0)
        return tensor.shape[-1], frozenset(bad.nonzero().flatten().tolist())
    whole = tensor._base
    if whole is None or not whole.ndim or not whole.is_contiguous():
        return None
    return whole.shape[-1], frozenset((int(tensor.storage_offset()) % whole.shape[-1],))


def rows_of(tensor: Tensor) -> tuple[int, frozenset[int]] | None:
    """Return the size of the first axis, and the indices along it with non-finite values."""
    if not tensor.ndim:
        return None
    bad = (~tensor.isfinite()).flatten(1).any(1) if tensor.ndim > 1 else ~tensor.isfinite()
    return tensor.shape[0], frozenset(bad.nonzero().flatten().tolist())


def places_of(tensor: Tensor) -> Tensor | None:
    """Return a mask of non-finite values over the first two axes; None if there are fewer."""
    if tensor.ndim < 2:
        return None
    bad = ~tensor.isfinite()
    return bad.flatten(2).any(2) if bad.ndim > 2 else bad

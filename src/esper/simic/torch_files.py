"""Reads files of `torch.save` from untrusted sources, without executing code from them.

`weights_only=True` executes no code. In addition, reading is bounded by the size of the file:
compressed records are refused, and so are tensors with more elements than their storage.

torch is imported only to read or write a file, so that listing files does not need it.
"""

import io
import math
import zipfile
from typing import TYPE_CHECKING, Any

from esper.leyline.errors import EsperError

if TYPE_CHECKING:
    import torch

#: Maximum number of lists, dictionaries, tensors and plain values in a file; real ones have some
#: hundred.
_MOST_VALUES = 1_000_000
_DEEPEST = 32
#: Maximum size in bytes of all expanded tensors in a file, as if each element had its own memory.
_MOST_EXPANDED = 256 << 20
#: Keys of the dictionary that encodes an expanded tensor.
_COMPACT, _SHAPE = "compact tensor", "expanded to"


class TorchFileError(EsperError, ValueError):
    """The data is damaged, or would need too much memory; the message says which."""


def load_values(data: bytes | memoryview, device: "torch.device | str") -> Any:
    """Return the tensors and plain values of a file that `torch.save` wrote.

    Args:
        data: content of the file.
        device: device of the tensors.

    Raises:
        TorchFileError: the content is something else.
    """
    import torch

    _check_archive(data)
    try:
        values = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    # Damaged files can make torch raise any exception.
    except Exception as error:
        raise TorchFileError(f"its tensors cannot be read ({_first_line(error)})") from error
    _check_values(values)
    return values


def saved(values: Any) -> bytes:
    """Return the bytes that `torch.save` writes for values.

    They are made in memory, because torch reports errors of a disk as a RuntimeError.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def compacted(values: Any) -> Any:
    """Return values in which no tensor has elements that share memory, so that they can be loaded.

    An expanded tensor is replaced by its distinct elements and its shape; see `expanded`.

    Args:
        values: tensors and plain values.
    """
    import torch

    if isinstance(values, dict):
        return {key: compacted(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)([compacted(value) for value in values])
    if not isinstance(values, torch.Tensor) or not _overlaps(values):
        return values
    own = values.detach()
    for dimension, stride in enumerate(own.stride()):
        if stride == 0:
            own = own.narrow(dimension, 0, 1)
    own = own.clone(memory_format=torch.contiguous_format)
    is_expanded = own.shape != values.shape
    return {_COMPACT: own, _SHAPE: list(values.shape)} if is_expanded else own


def expanded(values: Any) -> Any:
    """Return values with the expanded tensors that `compacted` replaced.

    Args:
        values: values of a file, as `load_values` returns them.

    Raises:
        TorchFileError: a shape is wrong, or all expanded tensors together would be too large.
    """
    return _expanded(values, [_MOST_EXPANDED])


def _expanded(values: Any, left: list[int]) -> Any:
    import torch

    if isinstance(values, (list, tuple)):
        return type(values)([_expanded(value, left) for value in values])
    if not isinstance(values, dict):
        return values
    if values.keys() != {_COMPACT, _SHAPE}:
        return {key: _expanded(value, left) for key, value in values.items()}
    own, shape = values[_COMPACT], values[_SHAPE]
    is_shape = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(own, torch.Tensor) or not is_shape or len(shape) != own.dim():
        raise TorchFileError("it has an expanded tensor without a valid shape")
    if any(size not in (1, new) for size, new in zip(own.shape, shape, strict=True)):
        raise TorchFileError("it has an expanded tensor whose shape does not fit its elements")
    left[0] -= math.prod(shape) * own.element_size()
    if left[0] < 0:
        raise TorchFileError(
            f"its expanded tensors would need more than {_MOST_EXPANDED >> 20} MiB"
        )
    return own.expand(shape)


def _overlaps(tensor: "torch.Tensor") -> bool:
    """Return whether a tensor has more elements than its memory holds."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _check_archive(data: bytes | memoryview) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
    # zipfile raises many kinds of exceptions for a damaged archive.
    except Exception as error:
        raise TorchFileError(f"it is not a file of torch.save ({_first_line(error)})") from error
    is_stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    if not is_stored or sum(record.file_size for record in records) > len(data):
        raise TorchFileError("it would need more memory than its own size")


def _check_values(values: Any) -> None:
    import torch

    left = [(values, 0)]
    count = 0
    while left:
        value, depth = left.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise TorchFileError("it has more values than any file of Esper")
        if isinstance(value, torch.Tensor):
            _check_tensor(value)
        elif isinstance(value, dict):
            left += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple, set)):
            left += [(part, depth + 1) for part in value]


def _check_tensor(tensor: "torch.Tensor") -> None:
    import torch

    is_plain = tensor.layout == torch.strided and not tensor.is_quantized
    if not is_plain or tensor.device.type == "meta":
        raise TorchFileError("it has a tensor that is quantized, sparse or on the meta device")
    if _overlaps(tensor):
        raise TorchFileError(
            f"it has a tensor of shape {tuple(tensor.shape)} whose elements overlap: it would need "
            "more memory than its own size"
        )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]

"""Reads what `torch.save` wrote, from files that anyone may have written: bounded, without code.

`weights_only=True` runs no code of the file. Beyond that, nothing takes more memory than the file
itself: no record is compressed, and no tensor has more elements than its storage.

torch is imported where a file is read or written, so that listing files needs none of it.
"""

import io
import zipfile
from typing import TYPE_CHECKING, Any

from esper.leyline.errors import EsperError

if TYPE_CHECKING:
    import torch

#: Lists, dictionaries, tensors and plain values in one file; a real one has some hundred.
_MOST_VALUES = 1_000_000
_DEEPEST = 32


class TorchFileError(EsperError, ValueError):
    """The data is damaged, or would take more memory than it should; the message says which."""


def load_values(data: bytes | memoryview, device: "torch.device | str") -> Any:
    """Return the tensors and plain values of a file that `torch.save` wrote.

    Args:
        data: the content of the file.
        device: where tensors are to live.

    Raises:
        TorchFileError: it holds something else.
    """
    import torch

    _check_archive(data)
    try:
        values = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    # What a damaged file makes torch raise is not limited to any list.
    except Exception as error:
        raise TorchFileError(
            f"it holds no tensors that can be read ({_first_line(error)})"
        ) from error
    _check_values(values)
    return values


def saved(values: Any) -> bytes:
    """Return what `torch.save` writes of values.

    It is made in memory: torch reports a disk that fails as a RuntimeError of its own.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _check_archive(data: bytes | memoryview) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = archive.infolist()
    except Exception as error:
        raise TorchFileError(f"it is not an archive of torch ({_first_line(error)})") from error
    is_stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
    if not is_stored or sum(record.file_size for record in records) > len(data):
        raise TorchFileError("it would take more memory than its own size")


def _check_values(values: Any) -> None:
    import torch

    left = [(values, 0)]
    count = 0
    while left:
        value, depth = left.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise TorchFileError("it holds more values than any file of Esper")
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
        raise TorchFileError("it holds a tensor that is not a plain one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TorchFileError(
            f"it holds a tensor of shape {tuple(tensor.shape)} that shares its elements: it would "
            "take more memory than its own size"
        )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]

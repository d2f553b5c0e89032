"""Checkpoints of format 2, which have neither a digest nor a summary: read without torch.

Such a file is the output of `torch.save` for one dictionary. The dictionary begins with the format,
the update and the episodes done. States of later formats begin differently, so a later checkpoint
that lost its digests is not mistaken for one.

zipfile is imported only to read a file, since listing checkpoints does not need it.
"""

import io
import pickletools
from typing import BinaryIO, Final, NamedTuple

UNSEALED_FORMAT: Final = 2
_FIRST_KEYS: Final = ("format", "update", "episodes_done")
_PICKLE: Final = "/data.pkl"
#: Pickle operations that create no value.
_WITHOUT_VALUE: Final = frozenset({"PROTO", "FRAME", "EMPTY_DICT", "MARK", "PUT", "BINPUT",
                                 "LONG_BINPUT", "MEMOIZE"})  # fmt: skip
_END_OF_ARCHIVE: Final = b"PK\x05\x06"
_END_SIZE: Final = 22  # bytes of the end of an archive without a comment


class UnsealedCheckpoint(NamedTuple):
    """The progress of a run in a checkpoint of format 2."""

    update: int
    episodes_done: int


def read_unsealed(content: bytes | memoryview) -> tuple[bytes, UnsealedCheckpoint] | None:
    """Return state and progress of a checkpoint of format 2; None if it is damaged.

    The archive has a CRC-32 of each record, but not of its directory. So the state is a new archive
    of the verified records.
    """
    import zipfile

    records = _records(io.BytesIO(content), "")
    found = _beginning(records)
    if found is None:
        return None
    state = io.BytesIO()
    with zipfile.ZipFile(state, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return state.getvalue(), found


def scan_unsealed(file: BinaryIO) -> UnsealedCheckpoint | None:
    """Return the progress in a checkpoint of format 2; None for other files.

    Only the record that holds it is verified.
    """
    return _beginning(_records(file, _PICKLE))


def _records(file: BinaryIO, ending: str) -> dict[str, bytes]:
    """Return the records of an archive by name suffix; none if one is damaged."""
    import zipfile

    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _END_SIZE, 0))
    if file.read(len(_END_OF_ARCHIVE)) != _END_OF_ARCHIVE:
        return {}
    try:
        with zipfile.ZipFile(file) as archive:
            known = archive.infolist()
            is_plain = all(
                one.compress_type == zipfile.ZIP_STORED and one.file_size == one.compress_size
                for one in known
            )
            if not is_plain or sum(one.file_size for one in known) > size:
                return {}
            wanted = [one for one in known if one.filename.endswith(ending)]
            return {one.filename: archive.read(one) for one in wanted}
    # zipfile raises many kinds of exceptions for a damaged archive.
    except Exception:  # noqa: BLE001
        return {}


def _beginning(records: dict[str, bytes]) -> UnsealedCheckpoint | None:
    """Return the progress in the first entries of the pickled dictionary, without unpickling."""
    pickles = [data for name, data in records.items() if name.endswith(_PICKLE)]
    values: list[object] = []
    try:
        for operation, argument, _ in pickletools.genops(pickles[0] if pickles else b"."):
            if operation.name in _WITHOUT_VALUE:
                continue
            values.append(argument)
            if len(values) == 2 * len(_FIRST_KEYS):
                break
    except ValueError:
        return None
    keys, numbers = tuple(values[::2]), values[1::2]
    if keys != _FIRST_KEYS or not all(type(number) is int for number in numbers):
        return None
    file_format, update, episodes_done = numbers
    assert isinstance(update, int)
    assert isinstance(episodes_done, int)
    if file_format != UNSEALED_FORMAT or update < 0 or episodes_done < 0:
        return None
    return UnsealedCheckpoint(update, episodes_done)

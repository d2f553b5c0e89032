"""Checkpoints of format 2, which have neither a digest nor a summary: read without torch.

Such a file is what `torch.save` wrote of one dictionary, and nothing follows it. The dictionary
begins with the format, the update and the episodes done. The states of later formats begin with
something else, so the state of a sealed checkpoint whose digests were lost is not taken for one.

zipfile is imported where a file is read, so that listing checkpoints needs none of it.
"""

import io
import pickletools
from typing import BinaryIO, Final, NamedTuple

UNSEALED_FORMAT: Final = 2
_FIRST_KEYS: Final = ("format", "update", "episodes_done")
_PICKLE: Final = "/data.pkl"
#: Operations that only number what was read, or begin something.
_PASSED_OVER: Final = frozenset({"PROTO", "FRAME", "EMPTY_DICT", "MARK", "PUT", "BINPUT",
                                 "LONG_BINPUT", "MEMOIZE"})  # fmt: skip
_END_OF_ARCHIVE: Final = b"PK\x05\x06"
_END_SIZE: Final = 22  # bytes of the end of an archive without a comment


class UnsealedCheckpoint(NamedTuple):
    """What a checkpoint of format 2 says of its run."""

    update: int
    episodes_done: int


def read_unsealed(content: bytes | memoryview) -> tuple[bytes, UnsealedCheckpoint] | None:
    """Return the state in a checkpoint of format 2, and what it says; None if it is not whole.

    The archive has a CRC-32 of each of its records. The state that is returned is a new archive of
    the records that were checked: torch would follow what no CRC covers in the old one.
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
    """Return what a file says if it is a checkpoint of format 2, else None.

    Only the record that says it is checked.
    """
    return _beginning(_records(file, _PICKLE))


def _records(file: BinaryIO, ending: str) -> dict[str, bytes]:
    """Return the records of an archive whose names have an ending; none if one is damaged."""
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
    # What a damaged archive makes zipfile raise is not limited to any list.
    except Exception:  # noqa: BLE001
        return {}


def _beginning(records: dict[str, bytes]) -> UnsealedCheckpoint | None:
    """Return what the first entries of the pickled dictionary say; no code of it is run."""
    pickles = [data for name, data in records.items() if name.endswith(_PICKLE)]
    values: list[object] = []
    try:
        for operation, argument, _ in pickletools.genops(pickles[0] if pickles else b"."):
            if operation.name in _PASSED_OVER:
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

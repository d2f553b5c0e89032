"""Packs several arrays with a row for each host into one array of bytes, for a single message.

The width of a row follows from the names, types and shapes of the arrays alone. These are the same
in every rank, since all hosts of a run are at the same step.
"""

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def packed(arrays: Arrays) -> np.ndarray:
    """Return the rows of all arrays side by side, by name. `[n, bytes]`, uint8

    Args:
        arrays: each `[n, …]`.
    """
    return np.concatenate([_bytes_of(arrays[name]) for name in sorted(arrays)], axis=1)


def unpacked(rows: np.ndarray, like: Arrays) -> dict[str, np.ndarray]:
    """Return the original arrays of `packed`, each `[N, …]`.

    Args:
        rows: rows of N hosts. `[N, bytes]`, uint8
        like: arrays of any number of hosts, whose names, types and shapes are those of the rows.
    """
    found = {}
    start = 0
    for name in sorted(like):
        array = like[name]
        width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        data = bytearray(rows[:, start : start + width].tobytes())
        found[name] = np.frombuffer(data, array.dtype).reshape(len(rows), *array.shape[1:])
        start += width
    return found


def _bytes_of(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(len(array), -1)
    return flat.view(np.uint8)

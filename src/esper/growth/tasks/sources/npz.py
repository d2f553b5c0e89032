"""Tasks from .npz files with arrays `x` and `y`, optionally `x_test` and `y_test`."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from esper.growth.tasks.arrays import Arrays, task_of_arrays
from esper.growth.tasks.sources.shape_options import channel_place_of, kind_of
from esper.growth.tasks.task import InvalidTaskError, Task
from esper.leyline.task_names import PARTS, TaskName

#: Exceptions for damaged files: numpy's header is a Python literal, zip's is binary.
_DAMAGED = (
    ValueError, TypeError, LookupError, EOFError, SyntaxError, OverflowError, MemoryError,
    RecursionError, NotImplementedError, RuntimeError, AttributeError, AssertionError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error,
)  # fmt: skip
#: Characters of a message of zipfile or numpy: a damaged length makes names of thousands of bytes.
_LONGEST_REASON = 200


def load_npz(name: TaskName) -> Task:
    """Load the task of a file.

    The options `train`, `validation` and `test` name other endings of the arrays of a part:
    `validation=val` reads `x_val` and `y_val`.

    Raises:
        InvalidTaskError: the file is missing, is not an .npz file, or its arrays cannot be used.
    """
    parts, unused = _read(name)
    return task_of_arrays(
        name.text,
        parts["train"],
        parts.get("test"),
        parts.get("validation"),
        kind=kind_of(name),
        channel_place=channel_place_of(name),
        unused=unused,
    )


def _read(name: TaskName) -> tuple[dict[str, Arrays], list[str]]:
    """Return the arrays of each part, and the names of those that are not used."""
    path = name.path
    try:
        with path.open("rb") as file:
            try:
                # not np.load, which takes a damaged file for one that it could unpickle
                stored = np.lib.npyio.NpzFile(file, allow_pickle=False)
            except _DAMAGED as error:
                raise InvalidTaskError(f"{path} is not an .npz file, or is damaged") from error
            return _parts(name, path, stored)
    except FileNotFoundError:
        raise InvalidTaskError(f"there is no file {path}") from None
    except OSError as error:
        raise InvalidTaskError(f"{path} cannot be read: {error.strerror or error}") from error


def _parts(
    name: TaskName, path: Path, stored: np.lib.npyio.NpzFile
) -> tuple[dict[str, Arrays], list[str]]:
    held = ", ".join(stored.files) or "nothing"
    parts, used = {}, set()
    for part in PARTS:
        named = name.options.get(part)
        ending = f"_{named or part}" if named or part != "train" else ""
        wanted = [f"x{ending}", f"y{ending}"]
        present = [array for array in wanted if array in stored.files]
        if len(present) < 2 and (named or part == "train"):
            hint = (
                "; to use x_train and y_train, add ?train=train to the task name"
                if {"x_train", "y_train"} <= set(stored.files)
                else ""
            )
            raise InvalidTaskError(
                f"{path} holds {held}: it must hold the arrays {wanted[0]} (samples) and "
                f"{wanted[1]} (labels){hint}"
            )
        if len(present) == 1:
            raise InvalidTaskError(
                f"{path} holds only one of {wanted[0]} and {wanted[1]}: it must hold both or "
                "neither"
            )
        if present:
            parts[part] = (_array(path, stored, wanted[0]), _array(path, stored, wanted[1]))
            used |= set(wanted)
    return parts, [array for array in stored.files if array not in used]


def _array(path: Path, stored: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array = stored[name]
    except _DAMAGED as error:
        if "Object arrays" in str(error):
            # only unpickling could read them, which runs whatever program they hold
            raise InvalidTaskError(
                f"the array {name} of {path} holds Python objects: save it as numbers, or as "
                "strings of a fixed length (dtype str)"
            ) from error
        reason = str(error).partition("\n")[0][:_LONGEST_REASON] or type(error).__name__
        raise InvalidTaskError(f"the array {name} of {path} is damaged: {reason}") from error
    if not isinstance(array, np.ndarray):  # numpy returns members of other formats as bytes
        raise InvalidTaskError(f"the array {name} of {path} is damaged: it has no NumPy header")
    return array

"""Tasks from a user's own arrays: an .npz file with `x` and `y`, perhaps `x_test` and `y_test`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from esper.growth.task import InvalidTaskError, Task
from esper.growth.task_arrays import KINDS, Arrays, Kind, task_of_arrays
from esper.leyline.task_names import TaskName

#: The parts of a task, by the end of the names of their arrays; only the first must be there.
_PARTS = {"train": "", "test": "_test", "validation": "_validation"}


def load_npz(name: TaskName) -> Task:
    """Return the task that a file holds.

    Raises:
        InvalidTaskError: the file is missing, is no .npz, or what it holds cannot be used.
    """
    parts = _read(Path(name.place).expanduser())
    return task_of_arrays(
        name.text, parts["train"], parts.get("test"), parts.get("validation"), kind=kind_of(name)
    )


def kind_of(name: TaskName) -> Kind | None:
    """Return the kind of samples that the name of a task says, if it does.

    Raises:
        InvalidTaskError: there is no such kind.
    """
    text = name.options.get("kind")
    kind: Kind | None = next((kind for kind in KINDS if kind == text), None)
    if text is not None and kind is None:
        raise InvalidTaskError(f"there is no kind {text!r} of samples: it is {', '.join(KINDS)}")
    return kind


def _read(path: Path) -> dict[str, Arrays]:
    damaged = InvalidTaskError(f"{path} is no .npz file, or it is damaged")
    try:
        with path.open("rb") as file:
            # not np.load, which takes a damaged file for one that it could unpickle
            return _parts(path, np.lib.npyio.NpzFile(file, allow_pickle=False))
    except FileNotFoundError:
        raise InvalidTaskError(f"there is no file {path}") from None
    except OSError as error:
        raise InvalidTaskError(f"{path} cannot be read: {error.strerror}") from error
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged from error


def _parts(path: Path, stored: np.lib.npyio.NpzFile) -> dict[str, Arrays]:
    held = ", ".join(stored.files) or "nothing"
    parts = {}
    for part, ending in _PARTS.items():
        present = [name for name in (f"x{ending}", f"y{ending}") if name in stored.files]
        if part == "train" and len(present) < 2:
            raise InvalidTaskError(
                f"{path} holds {held}: it must hold the arrays x (samples) and y (labels)"
            )
        if len(present) == 1:
            raise InvalidTaskError(
                f"{path} holds {present[0]} without its other half: it must hold x{ending} and "
                f"y{ending}, or neither"
            )
        if present:
            parts[part] = (_array(path, stored, f"x{ending}"), _array(path, stored, f"y{ending}"))
    return parts


def _array(path: Path, stored: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array: np.ndarray = stored[name]
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise InvalidTaskError(f"the array {name} of {path} is damaged: {error}") from error
        # only unpickling could read them, which runs whatever program they hold
        raise InvalidTaskError(
            f"the array {name} of {path} holds Python objects: save it as numbers, or as texts "
            "of a fixed length (dtype str)"
        ) from error
    return array

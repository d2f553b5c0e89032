"""MNIST-1D's arrays, generated once and stored in the user's cache directory.

The `mnist1d` package generates the data offline, but importing it imports matplotlib and requests,
which takes seconds.
"""

import contextlib
import os
import random
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import platformdirs

#: Samples and length that the generator's own default arguments give.
TRAIN_SAMPLES, TEST_SAMPLES, LENGTH = 4000, 1000, 40

# Part of the file's name; increase it when the content changes.
_FORMAT = 1


@dataclass(frozen=True)
class Mnist1dArrays:
    """The data as the generator splits it.

    Attributes:
        inputs: `[4000, 40]`.
        labels: `[4000]`, from 0 to 9.
        test_inputs: `[1000, 40]`.
        test_labels: `[1000]`.
    """

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray


def cache_file() -> Path:
    """Return the path of the cached arrays, in the user's cache directory (XDG on Linux)."""
    return Path(platformdirs.user_cache_dir("esper")) / f"mnist1d-{_FORMAT}.npz"


def load_mnist1d_arrays() -> Mnist1dArrays:
    """Return the arrays from the cache; generate them if it is missing or damaged."""
    path = cache_file()
    arrays = _read(path)
    if arrays is None:
        arrays = _generate()
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Mnist1dArrays | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = Mnist1dArrays(**{field.name: stored[field.name] for field in _FIELDS})
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged: generated again
    shapes = [getattr(arrays, field.name).shape for field in _FIELDS]
    expected = [(TRAIN_SAMPLES, LENGTH), (TRAIN_SAMPLES,), (TEST_SAMPLES, LENGTH), (TEST_SAMPLES,)]
    return arrays if shapes == expected else None


_FIELDS = fields(Mnist1dArrays)


def _generate() -> Mnist1dArrays:
    with _untouched_random_state():
        from mnist1d.data import get_dataset_args, make_dataset

        data = make_dataset(get_dataset_args())
    return Mnist1dArrays(data["x"], data["y"], data["x_test"], data["y_test"])


@contextlib.contextmanager
def _untouched_random_state() -> Iterator[None]:
    """Keep the process's global random state, which the generator seeds and uses."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _write(path: Path, arrays: Mnist1dArrays) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.savez(file, **vars(arrays))
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)  # a reader sees the whole file or none
            except BaseException:  # KeyboardInterrupt, too; raised again
                os.unlink(file.name)
                raise
    except OSError as error:
        # The arrays are there; with a read-only home directory the next start generates them again.
        warnings.warn(f"MNIST-1D could not be cached in {path}: {error}", stacklevel=2)

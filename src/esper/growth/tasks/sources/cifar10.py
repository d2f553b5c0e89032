"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes (Krizhevsky 2009).

Read from downloaded files: the binary batches of the "binary version", or the parquet files of
Hugging Face. (The "python version" is pickled, and reading a pickle runs
whatever program it holds.) Without files, the `datasets` extra fetches it.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from esper.growth.tasks.arrays import Arrays, task_of_arrays
from esper.growth.tasks.sources.hugging_face import load_hugging_face
from esper.growth.tasks.sources.images import read_images
from esper.growth.tasks.task import InvalidTaskError, Task
from esper.leyline.task_names import TaskName, parse_task_name
from esper.leyline.text.command_lines import install_command

#: Environment variable with the folder of CIFAR-10, if the name of the task has none.
DATA_DIR = "ESPER_DATA_DIR"

CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_PIXELS = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # a label, then red, green and blue
_HUB_NAME = "hf:uoft-cs/cifar10?input=img&label=label"


def load_cifar10(name: TaskName) -> Task:
    """Return CIFAR-10 from the folder in its name, else in `ESPER_DATA_DIR`, else by `datasets`.

    Raises:
        InvalidTaskError: the folder does not hold it, or a file is damaged.
    """
    place = name.place or os.environ.get(DATA_DIR, "")
    if not place:
        try:
            return load_hugging_face(parse_task_name(_HUB_NAME))
        except InvalidTaskError as error:
            raise InvalidTaskError(
                f"{error}; or give the folder with the files of CIFAR-10 as cifar10:FOLDER or in "
                f"{DATA_DIR}"
            ) from error
    folder = TaskName(name.text, name.source, place).path
    train, test = _read_batches(folder) or _read_parquet(folder) or (None, None)
    if train is None:
        raise InvalidTaskError(
            f"{folder} does not contain CIFAR-10: it or a subfolder must contain "
            "data_batch_*.bin and test_batch.bin, or train*.parquet and test*.parquet"
        )
    return task_of_arrays(name.text, train, test, class_names=CLASS_NAMES)


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted([*folder.glob(pattern), *folder.glob(f"*/{pattern}")])


def _read_batches(folder: Path) -> tuple[Arrays, Arrays] | None:
    train, test = _files(folder, "data_batch_*.bin"), _files(folder, "test_batch.bin")
    if not train or not test:
        return None
    return _read_records(train), _read_records(test)


def _read_records(files: list[Path]) -> Arrays:
    """Return the images `[n, 3, 32, 32]` and labels `[n]` of binary batches."""
    batches = []
    for file in files:
        try:
            records = np.fromfile(file, dtype=np.uint8)
        except OSError as error:
            raise InvalidTaskError(f"{file} cannot be read: {error.strerror or error}") from error
        if len(records) == 0 or len(records) % _RECORD:
            raise InvalidTaskError(
                f"{file} is damaged: its size must be a multiple of {_RECORD} bytes, not "
                f"{len(records)}"
            )
        batches.append(records.reshape(-1, _RECORD))
    records = np.concatenate(batches)
    return records[:, 1:].reshape(-1, *_PIXELS), records[:, 0]


def _read_parquet(folder: Path) -> tuple[Arrays, Arrays] | None:
    train, test = _files(folder, "train*.parquet"), _files(folder, "test*.parquet")
    if not train or not test:
        return None
    return _read_tables(train), _read_tables(test)


def _read_tables(files: list[Path]) -> Arrays:
    """Return the images `[n, 32, 32, 3]` and labels `[n]` of parquet files."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InvalidTaskError(
            f"parquet files need the datasets extra: {install_command('datasets')}"
        ) from None
    try:
        tables = [pyarrow.parquet.read_table(file, columns=["img", "label"]) for file in files]
        table = pyarrow.concat_tables(tables)
    except (OSError, pyarrow.ArrowException) as error:
        raise InvalidTaskError(
            f"{files[0].parent} has no CIFAR-10 parquet files with img and label: {error}"
        ) from error
    where = f"img in {files[0].parent}"
    entries = (entry.as_py() for entry in table["img"])
    images, _ = read_images(where, entries, len(table), _no_file)
    return images, np.asarray(table["label"].to_pylist())


def _no_file(entry: dict[str, Any]) -> Any:
    raise FileNotFoundError(f"there is no file {entry['path']}")

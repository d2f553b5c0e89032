"""Tasks from Hugging Face datasets, by name or from a folder; needs the `datasets` extra."""

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from esper.growth.task import InvalidTaskError, Task
from esper.growth.task_arrays import Arrays, task_of_arrays
from esper.growth.task_npz import kind_of
from esper.leyline.task_names import TaskName

#: Columns that are taken for the labels where no column says that it holds classes.
_LABEL_NAMES = ("label", "labels")
#: What images of other modes are turned into; any mode that is not in here becomes RGB.
_MODES = {"L": "L", "1": "L", "RGB": "RGB"}
#: Seconds in which the Hub must answer.
_PATIENCE = 10.0


def load_hugging_face(name: TaskName) -> Task:
    """Return the task that a dataset makes.

    The place is a folder that `save_to_disk` wrote, or else what `load_dataset` knows, of which the
    option `config` chooses a configuration. The options `input` and `label` name the columns where
    the dataset does not make clear which they are.

    Raises:
        InvalidTaskError: the extra is missing, or the dataset is, or it cannot be used.
    """
    parts = _parts(name)
    features = parts["train"].features
    label = _label_column(name, features)
    column = _input_column(name, features, label)
    arrays: dict[str, Arrays] = {}
    for part, dataset in parts.items():
        if not {column, label} <= set(dataset.column_names):
            raise InvalidTaskError(f"the {part} part of {name.text} lacks {column} or {label}")
        where = f"{column} in the {part} part of {name.text}"
        arrays[part] = (_inputs(where, dataset, column), _labels(dataset, label))
    return task_of_arrays(
        name.text,
        arrays["train"],
        arrays.get("test"),
        arrays.get("validation"),
        kind=kind_of(name),
        class_names=getattr(features[label], "names", None) or (),
    )


def _parts(name: TaskName) -> dict[str, Any]:
    """Return the datasets that are the parts of the task, by part."""
    folder = Path(name.place).expanduser()
    unreachable = "" if folder.is_dir() else _prepare_hub()
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError:
        raise InvalidTaskError(
            f"the task {name.text} needs the datasets extra: pip install 'esper[datasets]'"
        ) from None
    try:
        if folder.is_dir():
            loaded = load_from_disk(str(folder))
        else:
            loaded = load_dataset(name.place, name.options.get("config"))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if unreachable and isinstance(error, ConnectionError):
            reason = f"{unreachable}, and it was never fetched before"
        raise InvalidTaskError(f"the dataset {name.place} cannot be loaded: {reason}") from error
    parts = dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}
    if len(parts) == 1:
        parts = {"train": next(iter(parts.values()))}
    if "train" not in parts:
        raise InvalidTaskError(
            f"the dataset {name.place} has the parts {', '.join(parts)}: one must be train"
        )
    return {part: parts[part] for part in ("train", "test", "validation") if part in parts}


def _prepare_hub() -> str:
    """Ask once whether the Hub answers; return in words that it does not, else nothing.

    Where it does not, huggingface_hub would try for half a minute and tell of every attempt. Its
    offline mode asks nobody and takes what was fetched before. It reads these variables when it is
    first loaded: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
    """
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if "HF_HUB_OFFLINE" in os.environ or "HF_DATASETS_OFFLINE" in os.environ:
        return ""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(
            urllib.request.Request(hub, method="HEAD"), timeout=_PATIENCE
        ).close()
    except urllib.error.HTTPError:
        return ""  # an answer, too
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return ""  # other certificates than huggingface_hub's
        os.environ["HF_HUB_OFFLINE"] = "1"
        return f"{hub} cannot be reached ({getattr(reason, 'strerror', None) or reason})"
    return ""


def _label_column(name: TaskName, features: Any) -> str:
    from datasets import ClassLabel

    classes = [key for key, feature in features.items() if isinstance(feature, ClassLabel)]
    found = classes or [key for key in _LABEL_NAMES if key in features]
    return _chosen(name, "label", list(features), found)


def _input_column(name: TaskName, features: Any, label: str) -> str:
    from datasets import Image

    images = [key for key, feature in features.items() if isinstance(feature, Image)]
    return _chosen(name, "input", list(features), images or [k for k in features if k != label])


def _chosen(name: TaskName, option: str, columns: list[str], found: list[str]) -> str:
    """Return the column that an option names or, without it, the only one that was found."""
    named = name.options.get(option)
    if named is not None and named not in columns:
        raise InvalidTaskError(
            f"{name.text} names {named} as its {option}, and there is no such column: it has "
            f"{', '.join(columns)}"
        )
    column = named or (found[0] if len(found) == 1 else None)
    if column is None:
        raise InvalidTaskError(
            f"{name.text} does not make clear which column is its {option}: it has "
            f"{', '.join(columns)}; name one, as in hf:{name.place}?{option}={columns[0]}"
        )
    return column


def _inputs(where: str, dataset: Any, column: str) -> np.ndarray:
    from datasets import Image

    if isinstance(dataset.features[column], Image):
        return images_as_array(where, dataset[column], len(dataset))
    array = np.asarray(dataset.with_format("numpy")[column][:])
    if array.dtype.kind == "O":
        raise InvalidTaskError(f"{where} has samples of different shapes, or missing ones")
    return array


def _labels(dataset: Any, column: str) -> np.ndarray:
    labels = dataset[column][:]
    if any(label is None for label in labels):
        raise InvalidTaskError(f"the column {column} misses labels: every sample must have one")
    return np.asarray(labels)


def images_as_array(where: str, images: Any, count: int) -> np.ndarray:
    """Return PIL images as bytes, `[n, H, W]` for grey ones and `[n, H, W, 3]` for all others.

    Args:
        where: what to call them in an error.
        images: to go through once; no more than one of them is held at a time.
        count: how many there are.

    Raises:
        InvalidTaskError: one is missing, or they differ in size.
    """
    array: np.ndarray | None = None
    mode = ""
    for row, image in enumerate(images):
        if image is None:
            raise InvalidTaskError(f"{where} misses the image of row {row}")
        if array is None:
            mode = _MODES.get(image.mode, "RGB")
            shape = (image.height, image.width, *((3,) if mode == "RGB" else ()))
            array = np.empty((count, *shape), dtype=np.uint8)
        if (image.height, image.width) != array.shape[1:3]:
            raise InvalidTaskError(
                f"{where} has images of different sizes, {array.shape[2]}x{array.shape[1]} and "
                f"{image.width}x{image.height}: they must be brought to one size first"
            )
        array[row] = np.asarray(image if image.mode == mode else image.convert(mode))
    if array is None:
        raise InvalidTaskError(f"{where} has no images")
    return array

"""Tasks from Hugging Face datasets, by name or from a folder; needs the `datasets` extra."""

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np

from esper.growth.tasks.arrays import Arrays, task_of_arrays
from esper.growth.tasks.sources.images import read_images
from esper.growth.tasks.sources.shape_options import channel_place_of, kind_of
from esper.growth.tasks.task import InvalidTaskError, Task
from esper.leyline.task_names import PARTS, TaskName
from esper.leyline.text.command_lines import install_command

#: Columns that are taken for the labels where no column says that it holds classes.
_LABEL_NAMES = ("label", "labels")
#: Exceptions of the libraries for unreadable data; `datasets` documents nothing narrower.
_UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError,
    MemoryError, NotImplementedError, ArithmeticError, EOFError, AssertionError,
)  # fmt: skip
#: Timeout of the Hub, in seconds.
_PATIENCE = 10.0


def load_hugging_face(name: TaskName) -> Task:
    """Load the task of a dataset.

    The place is a folder written by `save_to_disk`, or else a name for `load_dataset`; the option
    `config` chooses its configuration. The options `input` and `label` name the columns if the
    dataset does not determine them; `train`, `validation` and `test` name its splits.

    Raises:
        InvalidTaskError: the extra is missing, or the dataset is, or it cannot be used.
    """
    parts, unused = _parts(name)
    features = parts["train"].features
    label = _label_column(name, features)
    column = _input_column(name, features, label)
    arrays: dict[str, Arrays] = {}
    notes: list[str] = []
    for part, dataset in parts.items():
        if not {column, label} <= set(dataset.column_names):
            raise InvalidTaskError(f"the {part} part of {name.text} lacks {column} or {label}")
        if len(dataset) == 0:
            raise InvalidTaskError(f"the {part} part of {name.text} has no samples")
        where = f"{column} in the {part} part of {name.text}"
        labels = _labels(f"{label} in the {part} part of {name.text}", dataset, label)
        inputs, about = _inputs(where, dataset, column)
        arrays[part] = inputs, labels
        notes += about
    # `read_images` puts channels last, whatever the shape looks like
    has_channels = _is_image(features[column]) and arrays["train"][0].ndim == 4
    return task_of_arrays(
        name.text,
        arrays["train"],
        arrays.get("test"),
        arrays.get("validation"),
        kind=kind_of(name) or ("image" if _is_image(features[column]) else None),
        channel_place=channel_place_of(name) or ("last" if has_channels else None),
        class_names=getattr(features[label], "names", None) or (),
        unused=unused,
        notes=notes,
    )


def _parts(name: TaskName) -> tuple[dict[str, Any], list[str]]:
    """Return the datasets that are the parts of the task, and the names of those not used."""
    folder = name.path
    is_folder = os.path.isdir(folder)
    unreachable = "" if is_folder else _prepare_hub()
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
        from datasets.exceptions import DatasetsError
        from pyarrow import ArrowException
    except ImportError:
        raise InvalidTaskError(
            f"the task {name.text} needs the datasets extra: {install_command('datasets')}"
        ) from None
    try:
        if is_folder:
            loaded = load_from_disk(str(folder))
        else:
            loaded = load_dataset(name.place, name.options.get("config"))
    except (*_UNREADABLE, DatasetsError, ArrowException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, LookupError):
            reason = f"it has no samples, or is damaged ({type(error).__name__}: {reason})"
        if unreachable and isinstance(error, ConnectionError):
            reason = f"{unreachable}, and it is not in the local cache"
        raise InvalidTaskError(f"the dataset {name.place} cannot be loaded: {reason}") from error
    held = dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}
    if not held:
        raise InvalidTaskError(f"the dataset {name.place} has no parts")
    if len(held) == 1 and "train" not in name.options:
        chosen = {"train": next(iter(held))}
    else:
        chosen = {part: name.options.get(part, part) for part in PARTS}
    for part, split in chosen.items():
        if split not in held and (part == "train" or part in name.options):
            raise InvalidTaskError(
                f"the dataset {name.place} has no part {split}, only {', '.join(held)}: choose "
                f"one with {part}=NAME in the task name"
            )
    found = {part: held[split] for part, split in chosen.items() if split in held}
    return found, [split for split in held if split not in chosen.values()]


def _prepare_hub() -> str:
    """Check once whether the Hub answers; return a message if it does not, else nothing.

    Without an answer, huggingface_hub would try for half a minute and print every attempt. Its
    offline mode uses the local cache only. It reads these variables when it is first loaded: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
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
            f"{name.text}: there is no column {named} for {option}=; the columns are "
            f"{', '.join(columns)}"
        )
    column = named or (found[0] if len(found) == 1 else None)
    if column is None:
        raise InvalidTaskError(
            f"{name.text}: it is not clear which column is the {option}; the columns are "
            f"{', '.join(columns)}; choose one, as in hf:{name.place}?{option}={columns[0]}"
        )
    return column


def _is_image(feature: Any) -> bool:
    from datasets import Image

    return isinstance(feature, Image)


def _inputs(where: str, dataset: Any, column: str) -> tuple[np.ndarray, list[str]]:
    """Return the samples of a column, and notes about them."""
    from datasets import Image

    feature = dataset.features[column]
    if _is_image(feature):
        encoded = dataset.cast_column(column, Image(decode=False))[column]
        decode = Image(mode=feature.mode).decode_example
        return read_images(where, encoded, len(dataset), decode, feature.mode)
    array = _array(where, lambda: dataset.with_format("numpy")[column][:])
    if array.dtype.kind == "O":
        raise InvalidTaskError(f"{where} has samples of different shapes, or missing samples")
    return array, []


def _labels(where: str, dataset: Any, column: str) -> np.ndarray:
    labels = dataset[column][:]
    if any(label is None for label in labels):
        raise InvalidTaskError(f"{where} has samples without a label: every sample must have one")
    if any(isinstance(label, list | tuple | dict) for label in labels):
        raise InvalidTaskError(
            f"{where} has several labels for a sample, such as {labels[0]!r:.60}: every sample "
            "must have one class"
        )
    return _array(where, lambda: labels)


def _array(where: str, read: Callable[[], Any]) -> np.ndarray:
    """Return what can be read as an array.

    Raises:
        InvalidTaskError: it cannot be read; audio and video, for example, need extra decoders.
    """
    from pyarrow import ArrowException

    try:
        return np.asarray(read())
    except (*_UNREADABLE, ArrowException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InvalidTaskError(f"{where} cannot be read as numbers: {reason}") from error

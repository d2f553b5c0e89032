"""Labels of a user's data, checked and turned into numbers of classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esper.growth.tasks.task import InvalidTaskError

#: Floating-point labels beyond this are not exact whole numbers.
_LARGEST_EXACT = 2.0**53


@dataclass(frozen=True)
class Classes:
    """The classes of a task.

    Attributes:
        names: the text for each class.
        labels: the label of each as the data has it: a text, bytes, a number or a bool.
    """

    names: tuple[str, ...]
    labels: tuple[object, ...]


def number_labels(
    parts: dict[str, tuple[str, np.ndarray]], class_names: Sequence[str]
) -> tuple[Classes, dict[str, np.ndarray]]:
    """Return the classes, and the labels of each part as numbers of classes.

    Args:
        parts: by name, the name of each in messages, and its labels `[n]`.
        class_names: names of classes if labels are numbers from 0; else empty.

    Raises:
        InvalidTaskError: labels are not classes, or a part has one that the train part lacks.
    """
    keys = {part: _keys(where, labels) for part, (where, labels) in parts.items()}
    if len({array.dtype.kind for array in keys.values()}) > 1:
        raise InvalidTaskError("labels must be whole numbers in all parts, or strings in all parts")
    where, labels = parts["train"]
    if class_names:
        if keys["train"].dtype.kind == "U":
            raise InvalidTaskError(
                f"{where} has strings as labels: they must be class numbers from 0 to "
                f"{len(class_names) - 1}"
            )
        known, names = np.arange(len(class_names)), tuple(class_names)
        originals: tuple[object, ...] = names
    else:
        known, first = np.unique(keys["train"], return_index=True)
        names = tuple(map(str, known.tolist()))
        if labels.dtype.kind == "b":
            names = tuple(str(bool(key)) for key in known)
        originals = tuple(labels[first].tolist())
    if len(known) < 2:
        raise InvalidTaskError(
            f"{where} has only one class, {labels[0]}: there must be at least two"
        )
    if len(known) > len(labels) // 2:
        raise InvalidTaskError(
            f"{where} has {len(known)} classes for {len(labels)} samples: labels must be classes "
            "with several samples each"
        )
    numbered = {}
    for part, (name, given) in parts.items():
        numbers = np.searchsorted(known, keys[part]).clip(max=len(known) - 1)
        strange = known[numbers] != keys[part]
        if strange.any():
            raise InvalidTaskError(
                f"{name} has the label {given[strange][0]}, which is not one of the {len(known)} "
                "classes of the train part"
            )
        numbered[part] = numbers.astype(np.int64)
    return Classes(names, originals), numbered


def _keys(where: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as they are compared across parts: int64, or texts."""
    kind = labels.dtype.kind
    if kind == "S":
        return np.char.decode(labels, "utf-8", "backslashreplace")
    if kind == "U":
        return labels
    if kind not in "fiub":
        raise InvalidTaskError(
            f"the labels of {where} have the type {labels.dtype}: they must be whole numbers "
            "or strings"
        )
    if kind == "f":
        if not np.isfinite(labels).all():
            raise InvalidTaskError(f"{where} has labels that are missing or not finite")
        if (labels != np.round(labels)).any():
            raise InvalidTaskError(
                f"{where} has fractional labels, such as {labels[labels % 1 != 0][0]}: "
                "labels must be whole numbers or strings"
            )
    if (kind == "f" and (np.abs(labels) > _LARGEST_EXACT).any()) or (
        kind == "u" and (labels > np.iinfo(np.int64).max).any()
    ):
        raise InvalidTaskError(
            f"{where} has the label {labels.flat[np.abs(labels).argmax()]}, which is too large for "
            "a class number"
        )
    return labels.astype(np.int64)

"""Tasks from a user's arrays: checks, splitting and standardisation."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from esper.growth.tasks.fingerprint import fingerprint_of
from esper.growth.tasks.labels import number_labels
from esper.growth.tasks.samples import Samples, counted
from esper.growth.tasks.splitting import draw_parts
from esper.growth.tasks.standardising import (
    check_values_differ,
    constant_channels,
    far_values,
    ready,
    standardisation_of,
)
from esper.growth.tasks.task import ChannelAxis, InvalidTaskError, Task

#: Minimum of training samples for each class, on average.
LEAST_OF_A_CLASS = 2
#: Samples for each class, on average, below which the figures are reported as uncertain.
_FEW_OF_A_CLASS = 20
#: Kinds of samples; by default chosen by the shape of a sample.
Kind = Literal["vector", "signal", "image"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Values of the option `channels`.
CHANNEL_PLACES: tuple[ChannelAxis, ...] = ("first", "last")
#: Axes that a sample of each kind may have.
_AXES: dict[Kind, tuple[int, ...]] = {"vector": (1,), "signal": (1, 2), "image": (2, 3)}
#: A sample of two axes is an image if both are at least this long, else a signal with channels.
_SHORTEST_IMAGE = 8
#: Lengths of an image axis that can be its channels.
_CHANNELS_OF_IMAGES = (1, 3, 4)
#: Channels of a host, by the number of axes of an input: few, so that growth can help.
_CHANNELS = {1: 16, 2: 8, 3: 8}

Arrays = tuple[np.ndarray, np.ndarray]  # inputs [n, ...], labels [n]


def task_of_arrays(
    name: str,
    train: Arrays,
    test: Arrays | None = None,
    validation: Arrays | None = None,
    *,
    kind: Kind | None = None,
    channel_place: ChannelAxis | None = None,
    class_names: Sequence[str] = (),
    channels: int | None = None,
    unused: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Task:
    """Build a task from arrays: inputs and labels of each part.

    Inputs are flat vectors `[n, F]`, signals `[n, L]`, `[n, C, L]` or `[n, L, C]`, or images
    `[n, H, W]`, `[n, C, H, W]` or `[n, H, W, C]`. They are standardised in each channel by the
    training part; for flat vectors that is each feature. Labels are whole numbers or texts. A part
    that is not given is drawn from the training part, stratified by class, and always the same.

    Args:
        name: of the task.
        train, test, validation: inputs and labels.
        kind: of the samples; None decides by their shape.
        channel_place: "first" or "last"; None decides by the shape of the samples.
        class_names: of labels that are numbers from 0; by default the labels are the names.
        channels: of a host; None chooses by the number of axes.
        unused: names of parts of the data that are not used.
        notes: sentences for the user about where the arrays came from.

    Raises:
        InvalidTaskError: the arrays cannot be used; the message is one sentence.
    """
    given = {"train": train, "test": test, "validation": validation}
    arrays = {
        part: (f"the {part} part of {name}", _at_most_64_bits(pair[0]), np.asarray(pair[1]))
        for part, pair in given.items()
        if pair is not None
    }
    for where, inputs, labels in arrays.values():
        _check_inputs(where, inputs)
        _check_labels(where, inputs, labels)
        if inputs.shape[1:] != arrays["train"][1].shape[1:]:
            raise InvalidTaskError(
                f"{where} has samples of shape {inputs.shape[1:]} and the train part "
                f"{arrays['train'][1].shape[1:]}: all parts must have the same shape"
            )
    classes, numbers = number_labels(
        {part: (where, labels) for part, (where, _, labels) in arrays.items()}, class_names
    )
    where, inputs, _ = arrays["train"]
    axis, description = _layout(where, inputs.shape[1:], kind, channel_place)
    if unused:
        description += (
            f"; not used: {', '.join(unused)} (choose with train=, validation= and test= in the "
            "task name)"
        )
    samples = draw_parts(
        {
            part: Samples(where, _with_channels(inputs, axis), numbers[part])
            for part, (where, inputs, _) in arrays.items()
        }
    )
    training = samples["train"]
    if len(training) < LEAST_OF_A_CLASS * len(classes.names):
        raise InvalidTaskError(
            f"{name} has {len(training)} samples for training, without those for validation and "
            f"test: {len(classes.names)} classes need at least "
            f"{LEAST_OF_A_CLASS * len(classes.names)}"
        )
    check_values_differ(training)
    standardisation = standardisation_of(training)
    return Task(
        name=name,
        train=ready(training, standardisation),
        validation=ready(samples["validation"], standardisation),
        test=ready(samples["test"], standardisation),
        classes=len(classes.names),
        channels=channels or _CHANNELS[training.inputs.ndim - 1],
        standardisation=standardisation,
        channel_axis=axis,
        class_names=classes.names,
        class_labels=classes.labels,
        description=description,
        drawn=tuple(part for part in samples if part not in arrays),
        fingerprint=fingerprint_of(samples.items(), classes.names),
        notes=(
            *notes,
            *constant_channels(training),
            *far_values(samples),
            *_missing_classes(samples, classes.names),
            *_few_samples(samples, len(classes.names)),
        ),
    )


def _at_most_64_bits(inputs: np.ndarray) -> np.ndarray:
    inputs = np.asarray(inputs)
    is_longer = inputs.dtype.kind == "f" and inputs.dtype.itemsize > 8
    with np.errstate(over="ignore"):  # infinite values are reported with their row
        return inputs.astype(np.float64) if is_longer else inputs


def _check_inputs(where: str, inputs: np.ndarray) -> None:
    if inputs.ndim and len(inputs) == 0:
        raise InvalidTaskError(f"{where} has no samples")
    if inputs.dtype.kind not in "fiub":
        raise InvalidTaskError(
            f"the inputs of {where} have the type {inputs.dtype}: they must be numbers"
        )
    if inputs.ndim not in (2, 3, 4) or 0 in inputs.shape:
        raise InvalidTaskError(
            f"the inputs of {where} have the shape {inputs.shape}: they must be flat vectors "
            "[n, F], signals [n, L], [n, C, L] or [n, L, C], or images [n, H, W], [n, C, H, W] or "
            "[n, H, W, C], and not empty"
        )
    if inputs.dtype.kind == "f":
        bad = ~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
        if bad.any():
            raise InvalidTaskError(
                f"{where} has {counted(int(bad.sum()), 'sample')} with missing or non-finite "
                f"values, the first in row {int(bad.argmax())}: every value must be a finite number"
            )


def _check_labels(where: str, inputs: np.ndarray, labels: np.ndarray) -> None:
    if labels.ndim == 2 and len(labels) == len(inputs):
        hint = (
            "use y.ravel()"
            if labels.shape[1] == 1
            else "for one-hot labels use y.argmax(1); several labels per sample are not supported"
        )
        raise InvalidTaskError(
            f"the labels of {where} have the shape {labels.shape}: there must be one label "
            f"per sample; {hint}"
        )
    if labels.ndim != 1 or len(labels) != len(inputs):
        raise InvalidTaskError(
            f"the labels of {where} have the shape {labels.shape} and there are "
            f"{len(inputs)} samples: there must be one label per sample"
        )


def _layout(
    where: str, shape: tuple[int, ...], kind: Kind | None, place: ChannelAxis | None
) -> tuple[ChannelAxis, str]:
    """Return the axis of the channels, and a description of the samples."""
    taken = kind or _kind_of_shape(shape)
    if len(shape) not in _AXES[taken]:
        *fewer, most = _AXES[taken]
        axes = "".join(f"{number} or " for number in fewer) + counted(most, "axis", "axes")
        raise InvalidTaskError(
            f"{where} has samples of shape {shape}, but a sample of kind={taken} must have {axes}"
        )
    others = [
        f"kind={other}"
        for other in KINDS
        if kind is None and other != taken and len(shape) in _AXES[other]
    ]
    axis: ChannelAxis
    if taken == "vector" or len(shape) == min(_AXES[taken]):
        if place is not None:
            raise InvalidTaskError(
                f"{where} has samples of shape {shape}: a {taken} of this shape has no channel "
                f"axis, so channels={place} does not apply"
            )
        axis = "first" if taken == "vector" else "none"
    else:
        axis = place or _place_of_channels(taken, shape)
        if place is None:
            others.append(f"channels={'first' if axis == 'last' else 'last'}")
    how = f" (guessed from their shape; override with {' or '.join(others)})" if others else ""
    return axis, _words(taken, shape, axis) + how


def _kind_of_shape(shape: tuple[int, ...]) -> Kind:
    if len(shape) == 1:
        return "vector"
    is_image = len(shape) == 3 or min(shape) >= _SHORTEST_IMAGE
    return "image" if is_image else "signal"


def _place_of_channels(kind: Kind, shape: tuple[int, ...]) -> ChannelAxis:
    if kind == "signal":
        return "last" if shape[1] < _SHORTEST_IMAGE <= shape[0] else "first"
    last = shape[0] not in _CHANNELS_OF_IMAGES and shape[-1] in _CHANNELS_OF_IMAGES
    return "last" if last else "first"


def _words(kind: Kind, shape: tuple[int, ...], axis: ChannelAxis) -> str:
    if kind == "vector":
        return f"vectors of {counted(shape[0], 'feature')}"
    positions, channels = shape, ""
    if axis != "none":
        count = shape[0] if axis == "first" else shape[-1]
        positions = shape[1:] if axis == "first" else shape[:-1]
        channels = f" with {counted(count, 'channel')}, channels {axis}"
    size = "x".join(map(str, positions))  # height, then width
    return f"{'signals of length' if kind == 'signal' else 'images of'} {size}{channels}"


def _with_channels(inputs: np.ndarray, axis: ChannelAxis) -> np.ndarray:
    if axis == "none":
        return inputs[:, None]
    return np.moveaxis(inputs, -1, 1) if axis == "last" else inputs


def _few_samples(samples: dict[str, Samples], classes: int) -> list[str]:
    """Return a sentence if classes are so small that accuracies are uncertain."""
    count = len(samples["train"]) + len(samples["validation"])
    if count >= _FEW_OF_A_CLASS * classes:
        return []
    return [
        f"there are only {counted(count, 'sample')} of {classes} classes for training and "
        "validation, so accuracies are uncertain"
    ]


def _missing_classes(samples: dict[str, Samples], names: tuple[str, ...]) -> list[str]:
    """Return a sentence for each part in which a class has no sample."""
    sentences = []
    for part, held in samples.items():
        missing = np.flatnonzero(np.bincount(held.labels, minlength=len(names)) == 0).tolist()
        if missing:
            shown = ", ".join(repr(names[number]) for number in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            sentences.append(
                f"the {part} part has no sample of {'class' if len(missing) == 1 else 'classes'} "
                f"{shown}{more}"
            )
    return sentences

"""Tasks from arrays of any user: what they must look like, how they are split and standardised."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from esper.growth.task import ChannelAxis, InvalidTaskError, Split, Standardisation, Task

#: Share of the samples that becomes the validation part, and the test part if none is given.
VALIDATION_SHARE, TEST_SHARE = 0.2, 0.2
#: The validation part is measured after every slice of training: more samples would cost too much.
LARGEST_VALIDATION = 1000
#: Samples that the training part needs: two minibatches of the default size.
LEAST_TRAINING = 100
#: What samples can be; where it is not said, their shape decides.
Kind = Literal["vector", "signal", "image"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Axes that a sample of each kind may have.
_AXES: dict[Kind, tuple[int, ...]] = {"vector": (1,), "signal": (1, 2), "image": (2, 3)}
#: A sample of two axes is an image if both are as long as this, else a signal with channels.
_SHORTEST_IMAGE = 8
#: Lengths of an axis of an image that may be its channels.
_CHANNELS_OF_IMAGES = (1, 3, 4)
#: Channels of a host, by the number of axes of an input: few, so that growth can win something.
_CHANNELS = {1: 16, 2: 8, 3: 8}
#: Samples that are turned into floating point at a time.
_CHUNK = 1024
# Which samples go where is part of what a task is, so it does not follow the seed of a run.
_SPLIT_SEED = 1998

Arrays = tuple[np.ndarray, np.ndarray]  # inputs [n, ...], labels [n]


@dataclass(frozen=True)
class _Named:
    """Two arrays with what a person calls them."""

    where: str
    inputs: np.ndarray
    labels: np.ndarray


def task_of_arrays(
    name: str,
    train: Arrays,
    test: Arrays | None = None,
    validation: Arrays | None = None,
    *,
    kind: Kind | None = None,
    class_names: Sequence[str] = (),
    channels: int | None = None,
) -> Task:
    """Build a task of arrays: inputs and labels of each part.

    Inputs are flat vectors `[n, F]`, signals `[n, L]` or `[n, C, L]`, or images `[n, H, W]`,
    `[n, C, H, W]` or `[n, H, W, C]`. They are standardised in each channel by the training part;
    for flat vectors that is each feature. Labels are whole numbers or texts. A part that is not
    given is drawn from the training part, always in the same way.

    Args:
        name: of the task.
        train, test, validation: inputs and labels.
        kind: of the samples. None takes one axis for a vector, and two axes for an image if both
            are at least 8 long, else for a signal with channels.
        class_names: of labels that are numbers from 0; else the labels themselves are the names.
        channels: of a host; None chooses by the number of axes.

    Raises:
        InvalidTaskError: the arrays cannot be used; one sentence says why.
    """
    given = {"train": train, "test": test, "validation": validation}
    parts = {
        part: _Named(f"the {part} part of {name}", np.asarray(arrays[0]), np.asarray(arrays[1]))
        for part, arrays in given.items()
        if arrays is not None
    }
    for part in parts.values():
        _check_inputs(part)
        _check_labels(part)
        if part.inputs.shape[1:] != parts["train"].inputs.shape[1:]:
            raise InvalidTaskError(
                f"{part.where} has samples of shape {part.inputs.shape[1:]}: they must be as those "
                f"of the train part, {parts['train'].inputs.shape[1:]}"
            )
    names, labels = _numbered(parts, class_names)
    axis = _channel_axis(parts["train"], kind)
    arrays = _split(
        {part: (_with_channels(parts[part].inputs, axis), labels[part]) for part in parts}
    )
    count = len(arrays["train"][1])
    if count < LEAST_TRAINING:
        raise InvalidTaskError(
            f"{name} leaves {count} samples to train on, after validation and test: it needs at "
            f"least {LEAST_TRAINING}"
        )
    standardisation = _standardisation(arrays["train"][0])
    return Task(
        name=name,
        train=_ready(*arrays["train"], standardisation),
        validation=_ready(*arrays["validation"], standardisation),
        test=_ready(*arrays["test"], standardisation),
        classes=len(names),
        channels=channels or _CHANNELS[arrays["train"][0].ndim - 1],
        standardisation=standardisation,
        channel_axis=axis,
        class_names=names,
    )


def _check_inputs(part: _Named) -> None:
    inputs = part.inputs
    if inputs.dtype.kind not in "fiub":
        raise InvalidTaskError(
            f"the inputs of {part.where} are of type {inputs.dtype}: they must be numbers"
        )
    if inputs.ndim not in (2, 3, 4) or 0 in inputs.shape:
        raise InvalidTaskError(
            f"the inputs of {part.where} have the shape {inputs.shape}: they must be flat vectors "
            "[n, F], signals [n, L] or [n, C, L], or images [n, H, W], [n, C, H, W] or "
            "[n, H, W, C], and not empty"
        )
    if inputs.dtype.kind == "f":
        bad = ~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
        if bad.any():
            found = _counted(int(bad.sum()), "sample")
            raise InvalidTaskError(
                f"{part.where} has {found} with missing or non-finite values, the "
                f"first in row {int(bad.argmax())}: every value must be a finite number"
            )


def _check_labels(part: _Named) -> None:
    labels = part.labels
    if labels.ndim != 1 or len(labels) != len(part.inputs):
        raise InvalidTaskError(
            f"the labels of {part.where} have the shape {labels.shape} and there are "
            f"{len(part.inputs)} samples: there must be one label for each"
        )
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise InvalidTaskError(f"{part.where} has labels that are missing or not finite")
        if (labels != np.round(labels)).any():
            raise InvalidTaskError(
                f"{part.where} has labels that are fractions, such as {labels[labels % 1 != 0][0]}:"
                " classes must be whole numbers or texts"
            )
    elif labels.dtype.kind not in "iubUS":
        raise InvalidTaskError(
            f"the labels of {part.where} are of type {labels.dtype}: they must be whole numbers or "
            "texts"
        )


def _numbered(
    parts: dict[str, _Named], class_names: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the names of the classes, and the labels of each part as their numbers."""
    kinds = {part.labels.dtype.kind in "US" for part in parts.values()}
    if len(kinds) > 1:
        raise InvalidTaskError("labels must be whole numbers in all parts, or texts in all")
    trained = parts["train"].labels
    known = np.arange(len(class_names)) if class_names else np.unique(trained)
    if len(known) < 2:
        raise InvalidTaskError(
            f"{parts['train'].where} has but one class, {known[0]}: there must be at least two"
        )
    if len(known) > len(trained) // 2:
        raise InvalidTaskError(
            f"{parts['train'].where} has {len(known)} classes for {len(trained)} samples: labels "
            "must be classes, each with some samples"
        )
    numbered = {}
    for name, part in parts.items():
        numbers = np.searchsorted(known, part.labels).clip(max=len(known) - 1)
        strange = known[numbers] != part.labels
        if strange.any():
            raise InvalidTaskError(
                f"{part.where} has the label {part.labels[strange][0]}, which is none of the "
                f"{len(known)} classes of the train part"
            )
        numbered[name] = numbers.astype(np.int64)
    names = class_names or [_class_name(label) for label in known]
    return tuple(names), numbered


def _counted(number: int, name: str, plural: str = "") -> str:
    return f"{number} {name if number == 1 else plural or name + 's'}"


def _class_name(label: np.generic) -> str:
    value = label.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(int(value)) if isinstance(value, float) else str(value)


def _channel_axis(part: _Named, kind: Kind | None) -> ChannelAxis:
    """Return where the channels of the samples are, which their kind and shape decide."""
    shape = part.inputs.shape[1:]
    if kind is None:
        image = len(shape) == 3 or (len(shape) == 2 and min(shape) >= _SHORTEST_IMAGE)
        kind = "vector" if len(shape) == 1 else "image" if image else "signal"
    if len(shape) not in _AXES[kind]:
        *fewer, most = _AXES[kind]
        axes = "".join(f"{number} or " for number in fewer) + _counted(most, "axis", "axes")
        raise InvalidTaskError(
            f"{part.where} has samples of shape {shape}, which are no {kind}s: those have {axes}"
        )
    if kind == "vector" or (kind == "signal" and len(shape) == 2):
        return "first"
    if len(shape) == min(_AXES[kind]):
        return "none"
    last = shape[0] not in _CHANNELS_OF_IMAGES and shape[-1] in _CHANNELS_OF_IMAGES
    return "last" if last else "first"


def _with_channels(inputs: np.ndarray, axis: ChannelAxis) -> np.ndarray:
    if axis == "none":
        return inputs[:, None]
    return np.moveaxis(inputs, -1, 1) if axis == "last" else inputs


def _split(arrays: dict[str, Arrays]) -> dict[str, Arrays]:
    """Return all three parts, those that were not given drawn from the training part."""
    inputs, labels = arrays["train"]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    parts = dict(arrays)
    for part, share, most in (
        ("test", TEST_SHARE, len(labels)),
        ("validation", VALIDATION_SHARE, LARGEST_VALIDATION),
    ):
        if part not in parts:
            drawn, order = np.split(order, [min(int(share * len(order)), most)])
            if not len(drawn):
                raise InvalidTaskError(f"{len(labels)} samples are too few to draw a {part} part")
            parts[part] = inputs[drawn], labels[drawn]
    if len(order) < len(labels):
        parts["train"] = inputs[order], labels[order]
    return parts


def _standardisation(inputs: np.ndarray) -> Standardisation:
    """Return what gives inputs `[n, C, ...]` mean 0 and deviation 1; constants keep their scale."""
    count = inputs[:, 0].size
    with np.errstate(over="ignore", invalid="ignore"):  # seen, and said, below
        mean = sum(chunk.sum(axis=1) for chunk in _by_channel(inputs)) / count
        squares = sum(((chunk - mean[:, None]) ** 2).sum(axis=1) for chunk in _by_channel(inputs))
    deviation = np.sqrt(squares / count)
    if not np.isfinite(deviation).all() or deviation.max() > np.finfo(np.float32).max:
        raise InvalidTaskError("the inputs are too large to be standardised: scale them down")
    deviation[deviation <= np.finfo(np.float32).eps * np.abs(mean)] = 1.0
    return Standardisation(tuple(mean.tolist()), tuple(deviation.tolist()))


def _by_channel(inputs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield all numbers of each channel, some samples at a time. `[C, m]`, float64"""
    for start in range(0, len(inputs), _CHUNK):
        chunk = np.moveaxis(inputs[start : start + _CHUNK], 1, 0)
        yield chunk.reshape(len(chunk), -1).astype(np.float64)


def _ready(inputs: np.ndarray, labels: np.ndarray, standardisation: Standardisation) -> Split:
    """Return a part; bytes stay bytes, everything else is standardised once and for all."""
    if inputs.dtype == np.uint8:
        return Split(_tensor(inputs), torch.from_numpy(labels), standardisation)
    result = torch.empty(inputs.shape, dtype=torch.float32)
    for start in range(0, len(inputs), _CHUNK):
        # in float64: what raw inputs have in common may be large beside what tells them apart
        chunk = _tensor(inputs[start : start + _CHUNK].astype(np.float64))
        result[start : start + _CHUNK] = standardisation.apply(chunk, torch.float64)
    return Split(result, torch.from_numpy(labels))


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))

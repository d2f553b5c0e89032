"""Standardise raw samples: mean 0 and std 1 in each channel, computed in float64.

The mean of raw values can be large compared with their differences (coordinates in metres, seconds
since 1970), so nothing is rounded to float32 before the mean is subtracted.
"""

from collections.abc import Iterator

import numpy as np
import torch

from esper.growth.tasks.samples import Samples, counted
from esper.growth.tasks.task import InvalidTaskError, Split, Standardisation

#: Samples that are converted to floating point at a time.
_CHUNK = 1024
#: Beyond this distance from the others, in units of their usual distance, a value makes all others
#: equal in float32: it marks missing data, or the feature is in the wrong unit.
_FARTHEST = 1e12
#: Distance from which on a note is shown.
_NOTABLE = 1e4
#: Values of each channel to measure the usual distance on.
_MEASURED = 4096
_EPSILON = float(np.finfo(np.float64).eps)
#: Channels that are named in a sentence, at most.
_NAMED = 5
_HINT = "if it marks missing data, remove these samples or replace the value"


def standardisation_of(training: Samples) -> Standardisation:
    """Return mean and std of the training part; constant channels keep their scale.

    Raises:
        InvalidTaskError: a value is so large that all others would become equal.
    """
    inputs = training.inputs
    low, high = _extremes(inputs)
    if inputs.dtype != np.uint8:
        _check_distances(training)
    count = inputs[:, 0].size
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        mean = sum(chunk.sum(axis=1) for chunk in _by_channel(inputs)) / count
        farthest = np.maximum(high - mean, mean - low)
        scale = np.where((farthest > 0) & np.isfinite(farthest), farthest, 1.0)
        squares = sum(
            (((chunk - mean[:, None]) / scale[:, None]) ** 2).sum(axis=1)
            for chunk in _by_channel(inputs)
        )
        std = scale * np.sqrt(squares / count)
    largest = np.finfo(np.float32).max
    if not (np.isfinite(mean).all() and (std <= largest).all()):
        channel = int(np.argmax(np.maximum(np.abs(low), np.abs(high))))
        place, value = _farthest_from(training, channel, 0.0)
        raise InvalidTaskError(
            f"{place} has the value {value:g}, which is too large to be standardised: scale the "
            f"inputs down; {_HINT}"
        )
    mean = np.where(low == high, low, mean)
    std[(low == high) | (farthest <= 4 * _EPSILON * np.abs(mean)) | (std == 0.0)] = 1.0
    return Standardisation(tuple(mean.tolist()), tuple(std.tolist()))


def ready(samples: Samples, standardisation: Standardisation) -> Split:
    """Return a part of a task; bytes stay bytes, all other types are standardised.

    Raises:
        InvalidTaskError: a value is too far from those of the training part.
    """
    inputs, labels = samples.inputs, torch.from_numpy(samples.labels)
    if inputs.dtype == np.uint8:
        return Split(_tensor(inputs), labels, standardisation)
    result = torch.empty(inputs.shape, dtype=torch.float32)
    for start in range(0, len(inputs), _CHUNK):
        chunk = _tensor(inputs[start : start + _CHUNK].astype(np.float64))
        standard = standardisation.apply_as(chunk, torch.float64)
        far = ~(standard.abs().flatten(1).amax(dim=1) <= _FARTHEST)  # a NaN is far, too
        if far.any():
            row = start + int(far.int().argmax())
            value = _farthest_value(inputs[row], standardisation)
            raise InvalidTaskError(
                f"{samples.where} has the value {value:g} in row {samples.rows[row]}, more than "
                f"{_FARTHEST:.0e} standard deviations from the mean of the training data: {_HINT}"
            )
        result[start : start + _CHUNK] = standard
    return Split(result, labels)


def check_values_differ(training: Samples) -> None:
    """Check that there is something to learn from.

    Raises:
        InvalidTaskError: all samples are the same.
    """
    inputs = training.inputs
    if any(
        (inputs[start : start + _CHUNK] != inputs[:1]).any()
        for start in range(0, len(inputs), _CHUNK)
    ):
        return
    first = inputs[0]
    what = f" (every value is {first.flat[0]:g})" if first.min() == first.max() else ""
    raise InvalidTaskError(
        f"all samples of {training.where} are the same{what}: there is nothing to learn"
    )


def constant_channels(training: Samples) -> list[str]:
    """Return a sentence about channels that never change in training, if there are any."""
    low, high = _extremes(training.inputs)
    constant = np.flatnonzero(low == high).tolist()
    if not constant:
        return []
    name = "feature" if training.inputs.ndim == 2 else "channel"
    shown = ", ".join(map(str, constant[:_NAMED])) + (", ..." if len(constant) > _NAMED else "")
    return [
        f"{counted(len(constant), name)} of {len(low)} never "
        f"change{'s' if len(constant) == 1 else ''} in training: {shown} (counted from 0)"
    ]


def far_values(samples: dict[str, Samples]) -> list[str]:
    """Return a sentence about the value farthest from all others, if it is notable."""
    training = samples["train"]
    if training.inputs.dtype == np.uint8:
        return []
    centre, usual = _usual_distance(training.inputs)
    farthest: tuple[float, str] = (_NOTABLE, "")
    for part in samples.values():
        distance = _distances(part.inputs, centre, usual)
        channel = int(distance.argmax())
        if distance[channel] > farthest[0]:
            place, value = _farthest_from(part, channel, centre[channel])
            times = float(distance[channel])
            farthest = (
                times,
                f"{place} has the value {value:g}, {times:.0e} times the usual "
                + (f"distance from the median: take logarithms, or {_HINT}"),
            )
    return [farthest[1]] if farthest[1] else []


def _check_distances(training: Samples) -> None:
    centre, usual = _usual_distance(training.inputs)
    distance = _distances(training.inputs, centre, usual)
    channel = int(distance.argmax())
    if distance[channel] > _FARTHEST:
        place, value = _farthest_from(training, channel, centre[channel])
        raise InvalidTaskError(
            f"{place} has the value {value:g}, so large that all other values become equal in "
            f"float32: scale the inputs down; {_HINT}"
        )


def _usual_distance(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each channel, and the median distance from it of what differs. `[C]`

    Where one value fills more than half of a channel (zeros, or a mark of missing data), both are
    of the other values. A channel without differences has the distance infinity.
    """
    step = -(-inputs[:, 0].size // _MEASURED)
    samples = inputs[:: min(step, max(1, len(inputs) // 64))]
    values = np.moveaxis(samples, 1, 0).reshape(inputs.shape[1], -1)
    values = values[:, :: -(-values.shape[1] // _MEASURED)].astype(np.float64)
    centre = np.median(values, axis=1)
    for channel in np.flatnonzero((values == centre[:, None]).sum(axis=1) > values.shape[1] / 2):
        others = values[channel][values[channel] != centre[channel]]
        if len(others):
            centre[channel] = np.median(others)
            values[channel] = np.resize(others, values.shape[1])
    with np.errstate(over="ignore"):
        distance = np.sort(np.abs(values - centre[:, None]), axis=1)
    zeros = (distance == 0).sum(axis=1)
    middle = (zeros + distance.shape[1]) // 2
    usual = distance[np.arange(len(distance)), middle.clip(max=distance.shape[1] - 1)]
    return centre, np.where(zeros < distance.shape[1], usual, np.inf)


def _distances(inputs: np.ndarray, centre: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return how far the farthest value of each channel lies, in usual distances. `[C]`"""
    low, high = _extremes(inputs)
    with np.errstate(over="ignore"):
        distances: np.ndarray = np.maximum(high - centre, centre - low) / usual
    return distances


def _extremes(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of each channel. `[C]`, float64"""
    axes = (0, *range(2, inputs.ndim))
    return inputs.min(axis=axes).astype(np.float64), inputs.max(axis=axes).astype(np.float64)


def _farthest_from(samples: Samples, channel: int, centre: float) -> tuple[str, float]:
    """Return the place of the value in a channel that is farthest from a number, and the value."""
    values = samples.inputs[:, channel].reshape(len(samples), -1)
    with np.errstate(over="ignore"):
        distance = np.abs(values.astype(np.float64) - centre)
    row, at = divmod(int(distance.argmax()), values.shape[1])
    return f"row {samples.rows[row]} of {samples.where}", float(values[row, at])


def _farthest_value(sample: np.ndarray, standardisation: Standardisation) -> float:
    """Return the raw value of a sample `[C, *P]` that lies farthest from the mean."""
    raw = _tensor(sample[None].astype(np.float64))
    far = standardisation.apply_as(raw, torch.float64).abs().flatten().nan_to_num(torch.inf)
    return float(raw.flatten()[int(far.argmax())])


def _by_channel(inputs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield all numbers of each channel, some samples at a time. `[C, m]`, float64"""
    for start in range(0, len(inputs), _CHUNK):
        chunk = np.moveaxis(inputs[start : start + _CHUNK], 1, 0)
        yield chunk.reshape(len(chunk), -1).astype(np.float64)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))

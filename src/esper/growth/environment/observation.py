"""What the agent observes of a host: one table of features, each with its range and its reader."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from esper.growth.hosts.seeds import Seeds
from esper.leyline.heads import BLUEPRINT_CHOICES, SLOT_CHOICES, STYLE_CHOICES, Stage

#: Losses are observed in units of the loss of guessing, ln(classes), up to this many.
LOSS_LIMIT = 4.0
#: Added parameters are observed in units of the host's, up to this many.
PARAMETER_LIMIT = 8.0


@dataclass
class Progress:
    """Progress and measurements of each host's episode.

    Attributes:
        step: steps taken. `[N]`
        accuracy, loss: present values on the validation part. `[N]`
        training_loss: mean of the last slice; before the first, the validation loss. `[N]`
        accuracy_change, loss_change: since the step before. `[N]`
        best_accuracy: the highest of the episode. `[N]`
        gain, training_gain: loss of the host minus that of each TRAINING seed's shadow, in nats.
            `[N, S]`
        multiply_adds: multiply-adds spent on training so far. `[N]`
    """

    step: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    training_loss: np.ndarray
    accuracy_change: np.ndarray
    loss_change: np.ndarray
    best_accuracy: np.ndarray
    gain: np.ndarray
    training_gain: np.ndarray
    multiply_adds: np.ndarray


def new_progress(hosts: int) -> Progress:
    """Return the progress of hosts before their first measurement: all zeros."""
    matrix = (hosts, len(SLOT_CHOICES))
    return Progress(
        step=np.zeros(hosts, dtype=np.int64),
        accuracy=np.zeros(hosts),
        loss=np.zeros(hosts),
        training_loss=np.zeros(hosts),
        accuracy_change=np.zeros(hosts),
        loss_change=np.zeros(hosts),
        best_accuracy=np.zeros(hosts),
        gain=np.zeros(matrix),
        training_gain=np.zeros(matrix),
        multiply_adds=np.zeros(hosts, dtype=np.int64),
    )


@dataclass(frozen=True)
class Observed:
    """Everything that features are read from.

    Attributes:
        progress: measurements of each host.
        seeds: the state of every slot.
        added_ratio: parameters of all seeds over the host's. `[N]`
        steps: steps in an episode.
        loss_unit: ln(classes), the loss of guessing.
    """

    progress: Progress
    seeds: Seeds
    added_ratio: np.ndarray
    steps: int
    loss_unit: float


@dataclass(frozen=True)
class Feature:
    """One entry of the observation.

    Attributes:
        name: its name.
        low, high: its range; values outside are clipped.
        meaning: one line for people.
        read: returns its value for each host, `[N]`.
    """

    name: str
    low: float
    high: float
    meaning: str
    read: Callable[[Observed], np.ndarray]


_HOST_FEATURES = (
    Feature(
        "progress",
        0.0,
        1.0,
        "steps taken over steps in the episode",
        lambda seen: seen.progress.step / seen.steps,
    ),
    Feature("accuracy", 0.0, 1.0, "on the validation part", lambda seen: seen.progress.accuracy),
    Feature(
        "loss",
        0.0,
        LOSS_LIMIT,
        "on the validation part, over ln(classes)",
        lambda seen: seen.progress.loss / seen.loss_unit,
    ),
    Feature(
        "training_loss",
        0.0,
        LOSS_LIMIT,
        "mean of the last slice, over ln(classes)",
        lambda seen: seen.progress.training_loss / seen.loss_unit,
    ),
    Feature(
        "accuracy_change",
        -1.0,
        1.0,
        "since the step before",
        lambda seen: seen.progress.accuracy_change,
    ),
    Feature(
        "loss_change",
        -LOSS_LIMIT,
        LOSS_LIMIT,
        "since the step before, over ln(classes)",
        lambda seen: seen.progress.loss_change / seen.loss_unit,
    ),
    Feature(
        "best_accuracy",
        0.0,
        1.0,
        "the highest of the episode so far",
        lambda seen: seen.progress.best_accuracy,
    ),
    Feature(
        "added_parameters",
        0.0,
        PARAMETER_LIMIT,
        "of all seeds, over the host's",
        lambda seen: seen.added_ratio,
    ),
)


def _equals(
    read: Callable[[Seeds], np.ndarray], slot: int, value: int
) -> Callable[[Observed], np.ndarray]:
    """Return a reader that is 1 where a slot has a value."""
    return lambda seen: read(seen.seeds)[:, slot] == value


def _one_hot(
    name: str,
    what: str,
    values: Iterable[tuple[str, int]],
    read: Callable[[Seeds], np.ndarray],
    slot: int,
) -> tuple[Feature, ...]:
    """Return a feature for each value of a slot that is 1 where the slot has it."""
    return tuple(
        Feature(f"{name}.{value}", 0.0, 1.0, f"1 {what}, else 0", _equals(read, slot, number))
        for value, number in values
    )


def _slot_features(slot: int, name: str) -> tuple[Feature, ...]:
    return (
        *_one_hot(
            f"{name}.stage",
            "in this stage",
            [(stage.name, stage) for stage in Stage],
            lambda seeds: seeds.stage,
            slot,
        ),
        Feature(
            f"{name}.alpha",
            0.0,
            1.0,
            "how far the seed is blended in",
            lambda seen: seen.seeds.alpha[:, slot],
        ),
        Feature(
            f"{name}.target",
            0.0,
            1.0,
            "the alpha that the seed is blended up to",
            lambda seen: seen.seeds.target[:, slot],
        ),
        Feature(
            f"{name}.stage_steps",
            0.0,
            1.0,
            "steps in this stage over steps in the episode",
            lambda seen: seen.seeds.stage_steps[:, slot] / seen.steps,
        ),
        *_one_hot(
            f"{name}.blueprint",
            "for this blueprint",
            [(choice, number) for number, choice in enumerate(BLUEPRINT_CHOICES)],
            lambda seeds: seeds.blueprint,
            slot,
        ),
        *_one_hot(
            f"{name}.style",
            "for this style",
            [(choice, number) for number, choice in enumerate(STYLE_CHOICES)],
            lambda seeds: seeds.style,
            slot,
        ),
        Feature(
            f"{name}.gain",
            -LOSS_LIMIT,
            LOSS_LIMIT,
            "validation loss of the host less that of the TRAINING seed's shadow, over ln(classes):"
            " above 0, the seed would help; 0 in any other stage",
            lambda seen: seen.progress.gain[:, slot] / seen.loss_unit,
        ),
        Feature(
            f"{name}.training_gain",
            -LOSS_LIMIT,
            LOSS_LIMIT,
            "the same on the training data of the last slice",
            lambda seen: seen.progress.training_gain[:, slot] / seen.loss_unit,
        ),
    )


#: Every entry of the observation, in order.
FEATURES = (
    *_HOST_FEATURES,
    *(f for slot, name in enumerate(SLOT_CHOICES) for f in _slot_features(slot, name)),
)
#: Bounds of the observation, each `[F]`.
LOW = np.array([feature.low for feature in FEATURES], dtype=np.float32)
HIGH = np.array([feature.high for feature in FEATURES], dtype=np.float32)


def observe(
    progress: Progress, seeds: Seeds, added_ratio: np.ndarray, steps: int, classes: int
) -> np.ndarray:
    """Return the observation of each host, in the order of `FEATURES`. `[N, F]`, float32

    Args:
        progress: measurements of each host.
        seeds: the state of every slot.
        added_ratio: parameters of all seeds over the host's. `[N]`
        steps: steps in an episode.
        classes: classes of the task.
    """
    seen = Observed(progress, seeds, added_ratio, steps, float(np.log(classes)))
    columns = [feature.read(seen) for feature in FEATURES]
    # clip keeps a NaN, so that a host with a fault can be seen to have one
    return np.clip(np.stack(columns, axis=1).astype(np.float32), LOW, HIGH)

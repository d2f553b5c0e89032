"""What the agent sees of a host: a vector of features, each with its name, range and meaning."""

from dataclasses import dataclass

import numpy as np

from esper.growth.hosts.seeds import Seeds
from esper.leyline.heads import BLUEPRINT_CHOICES, SLOT_CHOICES, STYLE_CHOICES, Stage

#: Losses are seen in units of the loss of guessing, ln(classes), up to this many.
LOSS_LIMIT = 4.0
#: Added parameters are seen in units of the host's, up to this many.
PARAMETER_LIMIT = 8.0


@dataclass(frozen=True)
class Feature:
    """One entry of the observation; values outside the range are cut to it."""

    name: str
    low: float
    high: float
    meaning: str


_HOST_FEATURES = (
    Feature("progress", 0.0, 1.0, "steps taken over steps in the episode"),
    Feature("accuracy", 0.0, 1.0, "on the validation part"),
    Feature("loss", 0.0, LOSS_LIMIT, "on the validation part, over ln(classes)"),
    Feature("training_loss", 0.0, LOSS_LIMIT, "mean of the last slice, over ln(classes)"),
    Feature("accuracy_change", -1.0, 1.0, "since the step before"),
    Feature("loss_change", -LOSS_LIMIT, LOSS_LIMIT, "since the step before, over ln(classes)"),
    Feature("best_accuracy", 0.0, 1.0, "the highest of the episode so far"),
    Feature("added_parameters", 0.0, PARAMETER_LIMIT, "of all seeds, over the host's"),
)


def _slot_features(slot: str) -> tuple[Feature, ...]:
    return (
        *(
            Feature(f"{slot}.stage.{stage.name}", 0.0, 1.0, "1 in this stage, else 0")
            for stage in Stage
        ),
        Feature(f"{slot}.alpha", 0.0, 1.0, "how much of the seed is blended in"),
        Feature(f"{slot}.target", 0.0, 1.0, "the alpha it is to reach"),
        Feature(f"{slot}.stage_steps", 0.0, 1.0, "steps in this stage over steps in the episode"),
        *(
            Feature(f"{slot}.blueprint.{name}", 0.0, 1.0, "1 for this blueprint, else 0")
            for name in BLUEPRINT_CHOICES
        ),
        *(
            Feature(f"{slot}.style.{name}", 0.0, 1.0, "1 for this style, else 0")
            for name in STYLE_CHOICES
        ),
        Feature(
            f"{slot}.gain",
            -LOSS_LIMIT,
            LOSS_LIMIT,
            "validation loss of the host less that of the TRAINING seed's shadow, over ln(classes):"
            " above 0, the seed would help; 0 in any other stage",
        ),
        Feature(
            f"{slot}.training_gain",
            -LOSS_LIMIT,
            LOSS_LIMIT,
            "the same on the training data of the last slice",
        ),
    )


#: Every entry of the observation, in order.
FEATURES = (*_HOST_FEATURES, *(f for slot in SLOT_CHOICES for f in _slot_features(slot)))
#: Bounds of the observation, each `[F]`.
LOW = np.array([feature.low for feature in FEATURES], dtype=np.float32)
HIGH = np.array([feature.high for feature in FEATURES], dtype=np.float32)


@dataclass
class Progress:
    """How far each host's episode has come, and what was measured on the way.

    Attributes:
        step: steps taken. `[N]`
        accuracy, loss: on the validation part, now. `[N]`
        training_loss: mean of the last slice; the validation loss before the first. `[N]`
        accuracy_change, loss_change: since the step before. `[N]`
        best_accuracy: of the episode. `[N]`
        gain, training_gain: of each TRAINING seed's shadow over its host, in nats. `[N, S]`
        multiply_adds: spent on training so far. `[N]`
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
    """Return the record of hosts about which nothing is known yet."""
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


def observe(
    progress: Progress, seeds: Seeds, added_ratio: np.ndarray, steps: int, classes: int
) -> np.ndarray:
    """Return what the agent sees, in the order of `FEATURES`. `[N, F]`, float32

    Args:
        progress: of each host.
        seeds: the state of every slot.
        added_ratio: parameters of all seeds over the host's. `[N]`
        steps: in an episode.
        classes: of the task.
    """
    unit = np.log(classes)
    columns = [
        progress.step / steps,
        progress.accuracy,
        progress.loss / unit,
        progress.training_loss / unit,
        progress.accuracy_change,
        progress.loss_change / unit,
        progress.best_accuracy,
        added_ratio,
    ]
    for slot in range(seeds.stage.shape[1]):
        columns += _one_hot(seeds.stage[:, slot], len(Stage))
        columns += [seeds.alpha[:, slot], seeds.target[:, slot], seeds.stage_steps[:, slot] / steps]
        columns += _one_hot(seeds.blueprint[:, slot], len(BLUEPRINT_CHOICES))
        columns += _one_hot(seeds.style[:, slot], len(STYLE_CHOICES))
        columns += [progress.gain[:, slot] / unit, progress.training_gain[:, slot] / unit]
    # A NaN passes the cut as it is: a host that went non-finite must be seen to.
    return np.clip(np.stack(columns, axis=1).astype(np.float32), LOW, HIGH)


def _one_hot(values: np.ndarray, choices: int) -> list[np.ndarray]:
    return [values == choice for choice in range(choices)]

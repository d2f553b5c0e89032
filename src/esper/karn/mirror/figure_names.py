"""The figures of a run under the names that Stable-Baselines3 uses in its logs."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.telemetry import EpisodesCompleted, Event, PPOUpdatePayload

#: Name in a tracker and field of `PPOUpdatePayload`.
_UPDATE_NAMES: Final = {
    "train/policy_gradient_loss": "policy_loss",
    "train/value_loss": "value_loss",
    "train/approx_kl": "approximate_kl",
    "train/clip_fraction": "clip_fraction",
    "train/explained_variance": "explained_variance",
    "train/gradient_norm": "gradient_norm",
    "train/learning_rate": "learning_rate",
    "train/loss_scale": "loss_scale",
    "time/rollout_seconds": "rollout_seconds",
    "time/update_seconds": "update_seconds",
    "time/samples_per_second": "samples_per_second",
}
#: Name in a tracker and field of `EpisodesCompleted`; the mean over hosts with a finite score.
_EPISODE_NAMES: Final = {
    "rollout/ep_rew_mean": "returns",
    "rollout/score": "score",
    "rollout/accuracy": "accuracy",
}


@dataclass(frozen=True)
class Point:
    """Figures of one update.

    Attributes:
        event_id: id of their event.
        update: number of the update, counted from 1.
        time: seconds since the epoch.
        values: figures by name; may be NaN or infinite.
    """

    event_id: int
    update: int
    time: float
    values: Mapping[str, float]


def points_of(events: Iterable[Event], lit: set[str]) -> Iterator[Point]:
    """Yield the figures of events in order.

    From the first NaN or Inf in a quantity of a group, each update has a figure
    `nonfinite/<group>/<quantity>`: 1 if one was seen in the update, otherwise 0.

    Args:
        events: events of a run, in order.
        lit: names of the `nonfinite/…` figures so far; new names are added to it.
    """
    for event in events:
        payload = event.payload
        if isinstance(payload, EpisodesCompleted):
            yield Point(event.id, payload.update, event.time, _of_episodes(payload))
        elif isinstance(payload, PPOUpdatePayload):
            yield Point(event.id, payload.update, event.time, _of_update(payload, lit))


def _of_update(payload: PPOUpdatePayload, lit: set[str]) -> dict[str, float]:
    values: dict[str, float] = {}

    def add(name: str, value: float | None, sign: int = 1) -> None:
        if (known := payload.measured(value)) is not None:
            values[name] = sign * known

    for name, field in _UPDATE_NAMES.items():
        add(name, getattr(payload, field))
    add("train/entropy_loss", payload.entropy, sign=-1)
    if payload.minibatches:
        values["train/minibatches_skipped"] = payload.minibatches_skipped
    for figure in HEAD_FIGURES:
        for head, value in figure.of(payload).items():
            values[f"heads/{head}/{figure.column}"] = value
    values |= payload.logged
    seen = {f"nonfinite/{one.head}/{one.quantity}" for one in payload.head_nonfinite}
    lit |= seen
    return values | {name: float(name in seen) for name in sorted(lit)}


def _of_episodes(payload: EpisodesCompleted) -> dict[str, float]:
    sound = [host for host, score in enumerate(payload.score) if math.isfinite(score)]
    values = {}
    for name, field in _EPISODE_NAMES.items():
        figures = getattr(payload, field)
        known = [figures[host] for host in sound if host < len(figures)]
        if known:
            values[name] = sum(known) / len(known)
    return values

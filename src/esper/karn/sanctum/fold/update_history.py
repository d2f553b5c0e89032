"""The histories of the PPO updates: a series for each figure, and for each figure of each head."""

import math
from collections.abc import Sequence
from typing import Final

from esper.karn.sanctum.fold.history import History
from esper.leyline.telemetry import PPOUpdatePayload

#: Figures of an update whose history is kept.
TRAINING_SERIES: Final = (
    "policy_loss",
    "value_loss",
    "entropy",
    "approximate_kl",
    "clip_fraction",
    "explained_variance",
    "gradient_norm",
)
#: Figures of a head whose history is kept; each is a field `head_…` of an update.
HEAD_SERIES: Final = ("entropy", "gradient_norm", "ratio_max", "clip_fraction")

UpdateHistory = History[PPOUpdatePayload]


def update_history() -> UpdateHistory:
    """Return an empty history of updates."""
    return History(_columns)


def score_history() -> History[float]:
    """Return an empty history of mean scores, a series with the name `score`."""
    return History(_score_column)


def head_series(figure: str, head: str) -> str:
    """Return the name of the series of a head's figure."""
    return f"{head}.{figure}"


def training_figure(update: PPOUpdatePayload, name: str) -> float | None:
    """Return a figure of an update as a whole; None where no minibatch was learnt from."""
    value: float = getattr(update, name)
    return None if math.isnan(value) and update.minibatches_learnt <= 0 else value


def _score_column(scores: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"score": scores}


def _columns(updates: Sequence[PPOUpdatePayload]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {
        name: [training_figure(update, name) for update in updates] for name in TRAINING_SERIES
    }
    for figure in HEAD_SERIES:
        by_head = [getattr(update, f"head_{figure}") for update in updates]
        for head in dict.fromkeys(head for figures in by_head for head in figures):
            columns[head_series(figure, head)] = [figures.get(head) for figures in by_head]
    return columns

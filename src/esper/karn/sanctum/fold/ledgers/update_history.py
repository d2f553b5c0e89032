"""Histories over PPO updates: one series per figure, and per charted figure of each head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from esper.karn.sanctum.fold.ledgers.history import History
from esper.leyline.head_figures import CHARTED_FIGURES, HeadFigure
from esper.leyline.telemetry import PPOUpdatePayload, UpdateFigures

#: Figures of a whole update whose history is kept, with how each is read.
TRAINING_SERIES: Final[Mapping[str, Callable[[UpdateFigures], float | None]]] = {
    "policy_loss": lambda figures: figures.policy_loss,
    "value_loss": lambda figures: figures.value_loss,
    "entropy": lambda figures: figures.entropy,
    "approximate_kl": lambda figures: figures.approximate_kl,
    "clip_fraction": lambda figures: figures.clip_fraction,
    "explained_variance": lambda figures: figures.explained_variance,
    "gradient_norm": lambda figures: figures.gradient_norm,
}

#: What the name of the series of a logged figure begins with.
LOGGED: Final = "logged."

UpdateHistory = History[PPOUpdatePayload]


def update_history() -> UpdateHistory:
    """Return an empty history of updates."""
    return History(_columns)


def score_history() -> History[float]:
    """Return an empty history of mean scores, with one series, `score`."""
    return History(_score_column)


def head_series(figure: HeadFigure, head: str) -> str:
    """Return the name of the series of a head's figure."""
    return f"{head}.{figure.field}"


def logged_series(name: str) -> str:
    """Return the name of the series of a figure that a watched training loop logged."""
    return f"{LOGGED}{name}"


def _score_column(scores: Sequence[float]) -> dict[str, Sequence[float]]:
    return {"score": scores}


def _columns(updates: Sequence[PPOUpdatePayload]) -> dict[str, list[float | None]]:
    columns: dict[str, list[float | None]] = {
        name: [update.measured(read(update)) for update in updates]
        for name, read in TRAINING_SERIES.items()
    }
    for figure in CHARTED_FIGURES:
        by_head = [figure.of(update) for update in updates]
        for head in dict.fromkeys(head for figures in by_head for head in figures):
            columns[head_series(figure, head)] = [figures.get(head) for figures in by_head]
    for name in dict.fromkeys(name for update in updates for name in update.logged):
        columns[logged_series(name)] = [update.logged.get(name) for update in updates]
    return columns

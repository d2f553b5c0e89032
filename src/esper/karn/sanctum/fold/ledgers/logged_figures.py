"""The figures of a watched run, as its training loop logged them, the most telling first."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from esper.karn.sanctum.schema import TrainingState

#: By decreasing interest; a figure that matches none of them is between the last two.
_RANKS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(rew|return|score|success|accuracy)",
        r"loss",
        r"(kl\b|approx_kl|entropy|explained|clip.*frac|grad|lr\b|learning_rate|perplexity)",
    )
)
#: Figures that say nothing about learning: clocks and counters. They come last, as constants do.
_COUNTERS: Final = re.compile(r"(^time/|fps|total|iteration|n_updates|elapsed|epoch\b|clip_range)")
_GRADIENT_NORM: Final = "grad_norm"


@dataclass(frozen=True)
class LoggedFigure:
    """One figure with its history.

    Attributes:
        name: name in the log; `grad_norm` if the watch measured it.
        label: its last part, if no other figure has the same.
        value: the last value.
        history: oldest first, non-finite values included.
    """

    name: str
    label: str
    value: float | None
    history: tuple[float, ...]


def logged_figures(training: TrainingState) -> list[LoggedFigure]:
    """Return the figures that a watched run logged, and the gradient norm if it is measured."""
    found = dict(training.logged_history)
    last = dict(training.logged)
    if training.gradient_norm_history and _GRADIENT_NORM not in found:
        found[_GRADIENT_NORM] = training.gradient_norm_history
        last |= {} if training.gradient_norm is None else {_GRADIENT_NORM: training.gradient_norm}
    short = Counter(map(_short, found))
    figures = [
        LoggedFigure(
            name,
            _short(name) if short[_short(name)] == 1 else name,
            last.get(name, values[-1] if values else None),
            values,
        )
        for name, values in found.items()
    ]
    return sorted(figures, key=_rank)


def _short(name: str) -> str:
    return name.rpartition("/")[2] or name


def _rank(one: LoggedFigure) -> int:
    is_constant = len(one.history) > 1 and len(set(one.history)) == 1
    if is_constant or _COUNTERS.search(one.name):
        return len(_RANKS) + 1
    matching = (rank for rank, pattern in enumerate(_RANKS) if pattern.search(one.name))
    return next(matching, len(_RANKS))

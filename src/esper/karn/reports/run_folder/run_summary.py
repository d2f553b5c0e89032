"""The summary of a run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.karn.sanctum.fold.attention import LIGHT_WORDS, light_of
from esper.karn.sanctum.fold.doubt import NO_DOUBT, Doubt
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.sanctum.schema import TamiyoState
from esper.karn.store.liveness import RunStatus
from esper.karn.store.run_files.run_note import read_note


@dataclass(frozen=True)
class FirstLight:
    """The light that came on first in a run."""

    light: str  # "Inf" or "NaN"
    name: str  # of the head or group
    update: int
    planted: bool  # whether only drills lit it
    rank: int | None = None  # that saw it; None in a run of one process


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run in its current state."""

    run_id: str
    path: Path
    status: RunStatus
    name: str
    started_at: float | None  # seconds since the epoch
    update: int
    episodes_done: int
    episodes: int
    score: float | None
    inf_heads: tuple[str, ...]  # heads whose Inf light is on
    nan_heads: tuple[str, ...]
    inf_groups: tuple[str, ...]  # groups other than heads whose Inf light is on
    nan_groups: tuple[str, ...]
    task: str = ""
    best_score: float | None = None  # mean of the best batch of episodes
    incidents: int = 0
    doubt: Doubt = NO_DOUBT  # what is unread, missing or damaged
    note: str = ""  # the user's note
    planted: frozenset[tuple[str, str]] = frozenset()  # lights that only drills lit
    library: str = ""  # that trains a watched run; empty for Esper's own agent
    is_stalled: bool = False  # whether no weight moved for several updates at any time
    rng_seed: int | None = None
    world_size: int = 1  # processes that train together
    first_light: FirstLight | None = None  # None if none is on, or its place is not known
    #: Settings of the last start or resume; excluded from comparisons.
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def lights(self) -> dict[str, tuple[str, ...]]:
        """Return the heads and groups that are lit, by "Inf" and "NaN"."""
        return {
            "Inf": (*self.inf_heads, *self.inf_groups),
            "NaN": (*self.nan_heads, *self.nan_groups),
        }

    @property
    def is_lit(self) -> bool:
        """Whether any light is on: Inf, NaN or stalled."""
        return self.is_stalled or any(self.lights().values())

    def marked(self, light: str, name: str) -> str:
        """Return the name of a head or group, marked if only drills lit its light.

        Args:
            light: "Inf" or "NaN".
            name: name of the head or group.
        """
        return f"{name} (drill)" if (light, name) in self.planted else name


def summary_of(directory: Path, frame: Frame) -> RunSummary:
    """Return the summary of a run from a follower's frame."""
    run, tamiyo = frame.snapshot.run, frame.snapshot.tamiyo
    scores = [score for score in frame.snapshot.training.score_history if math.isfinite(score)]
    return RunSummary(
        run_id=directory.name,
        path=directory,
        status=frame.status,
        name=run.name,
        started_at=run.started_at,
        update=run.update,
        episodes_done=run.episodes_done,
        episodes=run.episodes,
        score=frame.snapshot.training.score,
        inf_heads=_lit(tamiyo.head_inf_latch),
        nan_heads=_lit(tamiyo.head_nan_latch),
        inf_groups=_lit(tamiyo.group_inf_latch),
        nan_groups=_lit(tamiyo.group_nan_latch),
        task=run.task,
        best_score=max(scores, default=None),
        incidents=frame.snapshot.interventions.incidents,
        doubt=frame.doubt,
        note=read_note(directory),
        library=run.library,
        is_stalled=frame.snapshot.training.stalled_latch,
        planted=frozenset(
            (word, name)
            for light, word in LIGHT_WORDS.items()
            for name in _lit(tamiyo.planted(light))
        ),
        rng_seed=run.seed,
        world_size=run.world_size,
        first_light=_first_light(tamiyo),
        settings=frame.settings,
    )


def _first_light(tamiyo: TamiyoState) -> FirstLight | None:
    if not tamiyo.first:
        return None
    first = tamiyo.first[0]
    light = light_of(first.kind)
    is_planted = tamiyo.planted(light).get(first.head, False)
    return FirstLight(LIGHT_WORDS[light], first.head, first.update, is_planted, first.rank)


def _lit(latch: Mapping[str, bool]) -> tuple[str, ...]:
    return tuple(name for name, is_lit in latch.items() if is_lit)

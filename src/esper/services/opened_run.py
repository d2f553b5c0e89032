"""A run for Python code and notebooks: status, lights, evidence, figures, incidents, settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.sanctum.fold.ranks.rank_state import RankState
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.sanctum.schema import Evidence, FirstSighting, SanctumSnapshot
from esper.karn.store.errors import RunStoreError
from esper.karn.store.reading.recorded_settings import settings_at_start
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_directory import default_run_dir, find_run
from esper.karn.store.tables.update_tables import UPDATE_COLUMNS
from esper.karn.text.light_signs import LIT, UNKNOWN, UNLIT
from esper.leyline.telemetry import EpisodesCompleted, PPOUpdatePayload
from esper.leyline.text.plain_text import printable
from esper.services.incident_reports import incidents_of

if TYPE_CHECKING:
    import pandas
    import polars

_EVERY_UPDATE = 1 << 62
#: Signs in a notebook for a light that is on, off or unknown.
_SIGNS = {True: LIT, False: UNLIT, None: UNKNOWN}


@dataclass(frozen=True)
class Run:
    """The state of a run at the time it was opened; `esper.open_run` returns one.

    Attributes:
        path: the run's folder.
        status: `LIVE`, `FINISHED`, `STOPPED`, `HALTED`, `FAILED`, `DEAD` … (`StatusKind`).
        latches: whether a light is on, by `"inf"` or `"nan"`, then by head or group. None if
            unknown, because a part of the run is missing or damaged.
        first: the first sighting of each light, in order of time.
        evidence: how often each kind of value was seen in each quantity, with the first and last
            place.
        doubt: why lights that are not on are unknown; None if they are known to be off.
        snapshot: all data that Sanctum shows.
        ranks: the processes that train together, each with its status, machine, device and missing
            data; empty for a run of one process.
    """

    path: Path
    status: str
    latches: Mapping[str, Mapping[str, bool | None]]
    first: tuple[FirstSighting, ...]
    evidence: tuple[Evidence, ...]
    doubt: str | None
    snapshot: SanctumSnapshot
    ranks: tuple[RankState, ...] = ()

    @property
    def run_id(self) -> str:
        """The name of the run's folder."""
        return self.path.name

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the last start or resume; empty if unreadable."""
        return settings_at_start(self.path) or {}

    @property
    def incidents(self) -> list[dict[str, Any]]:
        """The updates with non-finite values, as in `esper incidents --json`.

        Raises:
            RunStoreError: the store cannot be read, and there is no capsule.
        """
        return incidents_of(self.path).rows

    def history(self) -> list[dict[str, Any]]:
        """Return the current figures of each PPO update, oldest first.

        Keys are the columns of the view `updates` of the store, then the figures that a watched
        training loop logged. A figure that is not measured is None.

        Raises:
            RunStoreError: the store cannot be read.
        """
        reader = RunReader(self.path)
        scores = {}
        for event in reader.read_last("episodes_completed", _EVERY_UPDATE):
            if isinstance(event.payload, EpisodesCompleted):
                scores[event.payload.update] = _means(event.payload)
        rows = {}
        for event in reader.read_last("ppo_update", _EVERY_UPDATE):
            figures = event.payload
            if isinstance(figures, PPOUpdatePayload):  # an update trained again replaces its row
                score, accuracy = scores.get(figures.update, (math.nan, math.nan))
                row = {"update_index": figures.update, "time": event.time}
                row |= {"score": score, "accuracy": accuracy}
                row |= {name: getattr(figures, name) for name in UPDATE_COLUMNS}
                row |= {name: value for name, value in figures.logged.items() if name not in row}
                rows[figures.update] = row
        return [rows[update] for update in sorted(rows)]

    def to_polars(self, table: str = "figures") -> "polars.DataFrame":
        """Return the current content of a table of the run as a polars data frame.

        Args:
            table: a table of `esper export`: `figures` (a row for each figure of each update),
                `latches`, `evidence`, `sightings`, `settings` or `hosts`.

        Raises:
            EsperError: there is no such table, or polars is not installed.
            RunStoreError: the store cannot be read, and no light is known to be on.
        """
        from esper.karn.export.frames import polars_frame

        return polars_frame(self.path, table)

    def to_pandas(self, table: str = "figures") -> "pandas.DataFrame":
        """Return the current content of a table of the run as a pandas data frame.

        Args:
            table: as for `to_polars`.

        Raises:
            EsperError: there is no such table, or pandas is not installed.
            RunStoreError: the store cannot be read, and no light is known to be on.
        """
        from esper.karn.export.frames import pandas_frame

        return pandas_frame(self.path, table)

    def _repr_html_(self) -> str:
        """Return the status and the lights as HTML, for notebooks."""
        names = list(self.latches["inf"])
        head = "".join(f"<th>{escape(printable(name))}</th>" for name in names)
        stalled = ""
        if self.snapshot.run.is_watched:
            is_stalled = self.snapshot.training.stalled_latch or (None if self.doubt else False)
            stalled = f"<p>{_SIGNS[is_stalled]} stalled</p>"
        rows = "".join(
            f"<tr><th>{word}</th>"
            + "".join(f"<td>{_SIGNS[self.latches[light][name]]}</td>" for name in names)
            + "</tr>"
            for word, light in (("Inf", "inf"), ("NaN", "nan"))
        )
        doubt = "" if self.doubt is None else f"<p>? not known: {escape(printable(self.doubt))}</p>"
        return (
            f"<p><b>{escape(printable(self.run_id))}</b> {self.status}, "
            f"update {self.snapshot.run.update}</p>"
            f"<table><tr><th></th>{head}</tr>{rows}</table>{stalled}{doubt}"
        )


def open_run(run: str | Path | None = None, *, run_dir: str | Path | None = None) -> Run:
    """Return the current state of a run: live, finished or crashed. The run is not changed.

    Args:
        run: an id, a unique prefix of an id, a name, or the path of a run's folder; None for the
            newest run.
        run_dir: the folder that holds runs; by default `ESPER_RUN_DIR` or `runs`.

    Raises:
        RunNotFoundError: no run, or more than one, matches `run`.
        RunStoreError: the store cannot be read, and no light is known to be on.
    """
    folder = default_run_dir() if run_dir is None else Path(run_dir)
    path = find_run(folder, None if run is None else str(run)).resolve()
    return _opened(path, RunFollower(path).catch_up())


def _opened(path: Path, frame: Frame) -> Run:
    tamiyo = frame.snapshot.tamiyo
    lit = {light: tamiyo.latch(light) for light in ("inf", "nan")}
    is_any_lit = any(any(lights.values()) for lights in lit.values())
    if frame.completeness.unreadable is not None and not is_any_lit:
        raise RunStoreError(frame.completeness.unreadable)
    doubt = frame.completeness.doubt
    unlit = False if doubt is None else None
    return Run(
        path=path,
        status=str(frame.status.kind),
        latches={
            light: {name: is_lit or unlit for name, is_lit in lights.items()}
            for light, lights in lit.items()
        },
        first=tamiyo.first,
        evidence=tamiyo.evidence,
        doubt=doubt,
        snapshot=frame.snapshot,
        ranks=frame.ranks,
    )


def _means(ended: EpisodesCompleted) -> tuple[float, float]:
    """Return the means of score and accuracy over the hosts whose score is finite."""
    pairs = [
        (score, accuracy)
        for score, accuracy in zip(ended.score, ended.accuracy, strict=False)
        if math.isfinite(score)
    ]
    if not pairs:
        return math.nan, math.nan
    scores, accuracies = zip(*pairs, strict=True)
    return sum(scores) / len(pairs), sum(accuracies) / len(pairs)

"""The exported rows of one run, read from its store in batches of bounded size."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from esper.karn.export.columns import CLASSES, Batch, batch_of
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.store.errors import RunStoreError
from esper.karn.store.rank_folders import rank_folder
from esper.karn.store.reading.recorded_settings import settings_at_start
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.tables.update_tables import UPDATE_COLUMNS
from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.telemetry import EpisodesCompleted, Event, PPOUpdatePayload, StepCompleted

#: Group of figures of a whole update, and of figures that a watched training loop logged.
RUN_GROUP: Final = "run"
LOGGED_GROUP: Final = "logged"
_EVENTS_PER_READ: Final = 2_000
_MORE_FIGURES: Final = ("hosts_seconds", "still_updates")
_OF_STEPS: Final = ("accuracy", "loss", "parameters", "reward")
_OF_EPISODES: Final = {"score": "score", "return": "returns", "fossilized": "fossilized"}
_LIGHTS: Final = {"inf": ("+inf", "-inf", "inf"), "nan": ("nan",)}


class RunRows:
    """The exported rows of a run.

    Args:
        run: the run's directory.

    Attributes:
        doubt: why lights that are not on may have been lost; None if they are off.
        missing: a sentence on data that could not be read so far; None if nothing is missing.

    Raises:
        RunStoreError: the store cannot be read, and no light is known.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._frame: Frame = RunFollower(run, brief=True).catch_up()
        if (
            reason := self._frame.completeness.unreadable
        ) and not self._frame.snapshot.tamiyo.first:
            raise RunStoreError(reason)
        self.doubt = self.missing = self._frame.completeness.doubt
        readers: dict[int | None, RunReader] = {
            one.rank: RunReader(rank_folder(run, one.rank))
            for one in self._frame.ranks
            if one.has_store
        }
        self._stores = [
            _Store(run.name, rank, reader, _Attempts(reader))
            for rank, reader in (readers or {None: RunReader(run)}).items()
        ]

    def batches(self, tables: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of some tables in batches of bounded size."""
        own = {
            "latches": self._latches,
            "evidence": self._evidence,
            "settings": self._settings,
        }
        for table, rows in own.items():
            if table in tables and (found := rows()):
                yield batch_of(table, found)
        for store in self._stores:
            try:
                yield from store.batches(tables)
            finally:
                self.missing = self.missing or store.missing

    def _latches(self) -> list[dict[str, Any]]:
        snapshot = self._frame.snapshot
        off = "off" if self.doubt is None else "unknown"
        rows = []
        for light, kinds in _LIGHTS.items():
            for group, is_lit in snapshot.tamiyo.latch(light).items():
                first = next(
                    (
                        one
                        for one in snapshot.tamiyo.first
                        if one.head == group and one.kind in kinds
                    ),
                    None,
                )
                seen = {} if first is None or not is_lit else asdict(first)
                state = "on" if is_lit else off
                rows.append(
                    {**seen, "run": self._id, "group": group, "light": light, "state": state}
                )
        if snapshot.run.is_watched:
            is_stalled = snapshot.training.stalled_latch
            rows.append(
                {
                    "run": self._id,
                    "group": "training",
                    "light": "stalled",
                    "state": "on" if is_stalled else off,
                    "update": snapshot.training.stalled_since,
                }
            )
        return rows

    def _evidence(self) -> list[dict[str, Any]]:
        return [
            {**asdict(row), "run": self._id, "group": row.head, "rank": row.first_rank}
            for row in self._frame.snapshot.tamiyo.evidence
        ]

    def _settings(self) -> list[dict[str, Any]]:
        settings = settings_at_start(self._run) or {}
        return [
            {"run": self._id, "setting": name, "value": json.dumps(value, default=str)}
            for name, value in settings.items()
        ]

    @property
    def _id(self) -> str:
        return self._run.name


@dataclass
class _Store:
    """The rows of the store of one rank.

    Attributes:
        run: id of the run.
        rank: number of the rank; None in a run of one process.
        reader, attempts: of its store.
        missing: a sentence on data that could not be read so far; None if nothing is missing.
    """

    run: str
    rank: int | None
    reader: RunReader
    attempts: "_Attempts"
    missing: str | None = None

    def batches(self, tables: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of tables that are read from events."""
        if "figures" in tables or "sightings" in tables:
            for events in self._events("ppo_update"):
                if "figures" in tables:
                    yield from self._figures(events)
                if "sightings" in tables and (seen := list(self._sightings(events))):
                    yield batch_of("sightings", seen)
        if "hosts" in tables:
            self._note_removed()
            for events in self._events("step_completed"):
                yield from self._steps(events)
            for events in self._events("episodes_completed"):
                yield from self._episodes(events)

    def _events(self, kind: str) -> Iterator[list[Event]]:
        """Yield the events of a kind in order, without damaged ones."""
        after = 0
        while True:
            try:
                events = self.reader.read_kind(kind, after, _EVENTS_PER_READ)
            except RunStoreError as error:
                self._miss(str(error))
                return
            if not events:
                return
            after = events[-1].id
            yield events

    def _note_removed(self) -> None:
        try:
            removed = self.reader.thinned().removed
        except RunStoreError:
            return  # reading the events sets `missing`
        if removed:
            self._miss(
                f"its oldest {removed:,} steps and decisions were removed to keep the store small"
            )

    def _miss(self, reason: str) -> None:
        self.missing = self.missing or (f"rank {self.rank}: {reason}" if self.rank else reason)

    def _figures(self, events: Sequence[Event]) -> Iterator[Batch]:
        updates: list[int] = []
        times: list[float] = []
        groups: list[str] = []
        quantities: list[str] = []
        values: list[float] = []
        for event in events:
            payload = event.payload
            if not isinstance(payload, PPOUpdatePayload) or not self.attempts.is_last(event.id):
                continue
            figures = list(_figures_of(payload))
            updates += [payload.update] * len(figures)
            times += [event.time] * len(figures)
            for group, quantity, value in figures:
                groups.append(group)
                quantities.append(quantity)
                values.append(value)
        if values:
            yield Batch(
                "figures",
                {
                    "run": [self.run] * len(values),
                    "update": updates,
                    "time": times,
                    "group": groups,
                    "quantity": quantities,
                    **_valued(np.array(values, dtype=np.float64)),
                    "rank": [self.rank] * len(values),
                },
            )

    def _sightings(self, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
        for event in events:
            if isinstance(event.payload, PPOUpdatePayload):
                for one in event.payload.head_nonfinite:
                    fields = {name: getattr(one, name) for name in one.__struct_fields__}
                    fields |= {
                        "group": one.head,
                        "run": self.run,
                        "rank": self.rank,
                        "time": event.time,
                    }
                    yield {**fields, "update": event.payload.update}

    def _steps(self, events: Sequence[Event]) -> Iterator[Batch]:
        kept = [
            (event.time, event.payload)
            for event in events
            if isinstance(event.payload, StepCompleted) and self.attempts.is_kept(event.id)
        ]
        for quantity in _OF_STEPS:
            lists = [getattr(payload, quantity) for _, payload in kept]
            yield from self._of_hosts(
                quantity,
                lists,
                [time for time, _ in kept],
                [payload.update for _, payload in kept],
                [payload.first_episode for _, payload in kept],
                [payload.step for _, payload in kept],
            )

    def _episodes(self, events: Sequence[Event]) -> Iterator[Batch]:
        kept = [
            (event.time, event.payload)
            for event in events
            if isinstance(event.payload, EpisodesCompleted) and self.attempts.is_kept(event.id)
        ]
        for quantity, name in _OF_EPISODES.items():
            lists = [getattr(payload, name) for _, payload in kept]
            yield from self._of_hosts(
                quantity,
                lists,
                [time for time, _ in kept],
                [payload.update for _, payload in kept],
                [payload.first_episode for _, payload in kept],
                None,
            )

    def _of_hosts(
        self,
        quantity: str,
        lists: Sequence[Sequence[float]],
        times: Sequence[float],
        updates: Sequence[int],
        first_episodes: Sequence[int],
        steps: Sequence[int] | None,
    ) -> Iterator[Batch]:
        sizes = np.array([len(one) for one in lists], dtype=np.int64)
        total = int(sizes.sum())
        if not total:
            return
        values = np.fromiter(chain.from_iterable(lists), dtype=np.float64, count=total)
        hosts = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield Batch(
            "hosts",
            {
                "run": [self.run] * total,
                "update": np.repeat(np.array(updates, dtype=np.int64), sizes),
                "time": np.repeat(np.array(times, dtype=np.float64), sizes),
                "episode": np.repeat(np.array(first_episodes, dtype=np.int64), sizes) + hosts,
                "step": [None] * total
                if steps is None
                else np.repeat(np.array(steps, dtype=np.int64), sizes),
                "host": hosts,
                "quantity": [quantity] * total,
                **_valued(values),
                "rank": [self.rank] * total,
            },
        )


def _figures_of(payload: PPOUpdatePayload) -> Iterator[tuple[str, str, float]]:
    """Yield group, quantity and value of each measured figure."""
    for name in (*UPDATE_COLUMNS, *_MORE_FIGURES):
        value = payload.measured(getattr(payload, name))
        if value is not None:
            yield RUN_GROUP, name, float(value)
    for figure in HEAD_FIGURES:
        for head, value in figure.of(payload).items():
            yield head, figure.column, value
    for name, value in payload.logged.items():
        yield LOGGED_GROUP, name, value


def _valued(values: np.ndarray) -> dict[str, Any]:
    """Return the columns `value` and `class`."""
    codes = np.where(
        np.isfinite(values), 0, np.where(np.isnan(values), 1, np.where(values > 0, 2, 3))
    )
    return {"value": values, "class": np.array(CLASSES, dtype=object)[codes]}


class _Attempts:
    """Tells which events belong to the last attempt of each update.

    After a rollback or a resume, an update is trained again with the same number. Only the last
    attempt is exported.
    """

    def __init__(self, reader: RunReader) -> None:
        try:
            marks = reader.update_marks()
        except RunStoreError:
            marks = []  # a damaged store: keep all events
        self._last = {update: number for number, update in marks if update is not None}
        self._ends: list[int] = []
        self._begins: list[int] = []
        begin = 0
        for number, update in marks:
            if update is not None and self._last[update] == number:
                self._ends.append(number)
                self._begins.append(begin)
            begin = number
        self._kept = set(self._last.values())
        self._newest = begin

    def is_last(self, number: int) -> bool:
        """Return whether an update's event belongs to its last attempt."""
        return not self._kept or number in self._kept

    def is_kept(self, number: int) -> bool:
        """Return whether an event before the end of an update belongs to its last attempt."""
        if not self._kept or number > self._newest:
            return True  # the update in progress
        place = bisect_right(self._ends, number)
        return place < len(self._ends) and self._begins[place] < number

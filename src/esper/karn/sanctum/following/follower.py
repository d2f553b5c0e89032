"""Reads a run: the stores of all its ranks, joined; a run of one process has one."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from esper.karn.sanctum.fold.ranks.joined_snapshot import joined_snapshot
from esper.karn.sanctum.fold.ranks.rank_state import (
    STARTING_SECONDS,
    RankState,
    joined_completeness,
    joined_status,
    missing_rank,
)
from esper.karn.sanctum.following.digest import Digest
from esper.karn.sanctum.following.run_frame import Frame
from esper.karn.sanctum.following.store_follower import StoreFollower
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.file_stamps import FileStamp, are_racy, file_stamp
from esper.karn.store.rank_folders import RANKS_NAME, rank_folders


class RunFollower:
    """Reads a run by cursor, a bounded number of events at a time; for use from one thread.

    A run of one process is as its store says. Of several ranks, everything is joined that each of
    them reported; what cannot be joined, such as figures, is that of rank 0.

    Args:
        directory: the run's directory; it need not exist yet.
        digest: of a summary follower that read this run before, as for `StoreFollower`.
        stays_open: as for `StoreFollower`.
        ticks: returns seconds of a monotonic clock.
        options: `brief` and `keeps_histories`, as for `StoreFollower`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        digest: Digest | None = None,
        stays_open: bool = False,
        ticks: Callable[[], float] = time.monotonic,
        **options: bool,
    ) -> None:
        self._directory = directory
        self._options: dict[str, Any] = {**options, "stays_open": stays_open, "ticks": ticks}
        self._own = StoreFollower(directory, digest=digest, **self._options)
        self._others: dict[int, StoreFollower] = {}  # by rank
        self._listed: FileStamp | None = None  # of the folder of ranks
        self._joined: tuple[dict[int, SanctumSnapshot], SanctumSnapshot] | None = None

    def poll(self, now: float) -> Frame:
        """Read new events and return the state; never raises because of a store.

        Args:
            now: seconds since the epoch.
        """
        self._find_ranks()
        own = self._own.poll(now)
        if not self._others and own.snapshot.run.world_size <= 1:
            return own
        frames = {0: own, **{rank: one.poll(now) for rank, one in self._others.items()}}
        return self._joined_frame(frames, now)

    def catch_up(self) -> Frame:
        """Poll until all events are read."""
        while (frame := self.poll(time.time())).is_behind:
            pass
        return frame

    def digest(self) -> Digest | None:
        """Return the events that a summary of the run depends on; None if it must be read whole."""
        return None if self._others else self._own.digest()

    def close(self) -> None:
        """Close the stores."""
        for one in (self._own, *self._others.values()):
            one.close()

    @property
    def updates(self) -> int:
        """The last update of the run so far; 0 before the first."""
        return max(one.updates for one in (self._own, *self._others.values()))

    def state_after(self, update: int) -> SanctumSnapshot | None:
        """Return the state after an update, or after the nearest update read so far.

        It is None before the first update.

        Raises:
            RunStoreError: a store cannot be read.
        """
        own = self._own.state_after(update)
        if not self._others and (own is None or own.run.world_size <= 1):
            return own
        found = {rank: one.state_after(update) for rank, one in self._others.items()}
        states = {rank: one for rank, one in {0: own, **found}.items() if one is not None}
        return joined_snapshot(states) if states else None

    def _find_ranks(self) -> None:
        """Follow the ranks that have a folder by now."""
        folder = self._directory / RANKS_NAME
        taken_at, stamp = time.time_ns(), file_stamp(folder)
        if stamp is None or stamp == self._listed:
            return
        try:
            found = rank_folders(self._directory)
        except OSError:  # read again at the next look; until then ranks are missing
            return
        self._listed = None if are_racy([stamp], taken_at) else stamp
        for rank, directory in found.items():
            if rank not in self._others:
                self._others[rank] = StoreFollower(directory, **self._options)

    def _joined_frame(self, frames: Mapping[int, Frame], now: float) -> Frame:
        own = frames[0]
        snapshots = {rank: one.snapshot for rank, one in sorted(frames.items())}
        if self._joined is None or not _are_same(self._joined[0], snapshots):
            self._joined = snapshots, joined_snapshot(snapshots)
        snapshot = self._joined[1]
        size = snapshot.run.world_size
        followers = {0: self._own, **self._others}
        states = [
            _state_of(rank, frames[rank], followers[rank]) if rank in frames else missing_rank(rank)
            for rank in sorted({*range(size), *frames})
        ]
        if not snapshots[0].run.run_id and own.completeness.unreadable is None and size > 1:
            states[0] = missing_rank(0)
        # A restart may have had fewer ranks: the others of before are not waited for.
        status = joined_status([one for one in states if one.rank < size])
        begun = snapshot.run.started_at
        is_starting = begun is not None and now - begun < STARTING_SECONDS and not status.is_over
        return Frame(
            snapshot=snapshot,
            status=status,
            completeness=joined_completeness(
                states, snapshot.run.damaged_events, is_starting=is_starting
            ),
            is_behind=any(one.is_behind for one in frames.values()),
            wal_bytes=max(one.wal_bytes for one in frames.values()),
            settings=own.settings or next((o.settings for o in frames.values() if o.settings), {}),
            ranks=tuple(states),
        )


def _state_of(rank: int, frame: Frame, follower: StoreFollower) -> RankState:
    run, beat = frame.snapshot.run, follower.heartbeat
    signs = (run.finished_at, follower.heartbeat_at, run.last_event_at)
    return RankState(
        rank=rank,
        status=frame.status,
        completeness=frame.completeness,
        update=run.update,
        device=run.device,
        machine="" if beat is None else beat.machine,
        pid=run.pid,
        started_at=run.process_start_time,
        ended_at=max((one for one in signs if one is not None), default=None),
    )


def _are_same(before: Mapping[int, SanctumSnapshot], now: Mapping[int, SanctumSnapshot]) -> bool:
    """Return whether no rank's state has changed, so that nothing must be drawn again."""
    return before.keys() == now.keys() and all(before[rank] is now[rank] for rank in now)

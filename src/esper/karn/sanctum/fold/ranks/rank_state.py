"""The state of one rank; status and completeness of a run from the states of all its ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.store.reading.completeness import Completeness
from esper.leyline.text.rank_words import ranks_words

#: Seconds after the start of a run in which ranks without a store are not reported as missing.
STARTING_SECONDS: Final = 30.0

#: Seconds of silence after which a rank has missed a heartbeat, with time for a busy disk.
_BEATS_SECONDS: Final = 4.0
_GONE: Final = (StatusKind.DEAD, StatusKind.FAILED, StatusKind.HALTED)
_GOING_ON: Final = (StatusKind.LIVE, StatusKind.STARTING, StatusKind.STUCK)
_GROUPS_NAMED: Final = 3


@dataclass(frozen=True)
class RankState:
    """One rank of a run at one moment.

    Attributes:
        rank: number of the rank, counted from 0.
        status: status of its process.
        completeness: whether all its events are known.
        has_store: whether its store was found.
        update: number of its last update.
        device: device of its model.
        machine: name of its machine; empty if unknown.
        pid: id of its process; None if unknown.
        started_at: when its process started, in seconds since the epoch; None if unknown.
        ended_at: its last heartbeat, in seconds since the epoch; None if unknown.
    """

    rank: int
    status: RunStatus
    completeness: Completeness
    has_store: bool = True
    update: int = 0
    device: str = ""
    machine: str = ""
    pid: int | None = None
    started_at: float | None = None
    ended_at: float | None = None


def missing_rank(rank: int) -> RankState:
    """Return the state of a rank that has no store."""
    status = RunStatus(StatusKind.WAITING, None, "it has no store")
    return RankState(rank, status, Completeness(), has_store=False)


def joined_status(ranks: Sequence[RankState]) -> RunStatus:
    """Return the status of a run from the statuses of its ranks.

    A run is active while one of its ranks is. A dead rank then makes it DEGRADED, and a silent rank
    makes it STALE. The sentence names these ranks.

    Args:
        ranks: all ranks that should train, in order.
    """
    size = len(ranks)
    there = [one for one in ranks if one.status.kind is not StatusKind.WAITING] or list(ranks)
    gone = [one for one in there if one.status.kind in _GONE]
    active = [one for one in there if not one.status.is_over]
    silent = [one for one in there if one.status.kind is StatusKind.STALE]
    if not active:
        return _ended(there, size)
    if gone:
        seconds = max((one.status.seconds or 0.0 for one in gone), default=None)
        return RunStatus(StatusKind.DEGRADED, seconds, _named(_earliest_first(gone), size))
    if silent:
        seconds = max(one.status.seconds or 0.0 for one in silent)
        who = ranks_words([one.rank for one in silent])
        are = f"{who} of {size} silent for {seconds:.0f} s"
        return RunStatus(StatusKind.STALE, seconds, are)
    for kind in (StatusKind.UNREADABLE, StatusKind.STUCK, StatusKind.STARTING):
        found = [one for one in there if one.status.kind is kind]
        if found and (kind is not StatusKind.STARTING or len(found) == len(there)):
            return RunStatus(kind, found[0].status.seconds, _named(found, size))
    training = [one for one in there if one.status.kind in _GOING_ON]
    if not training:  # nothing has been written yet
        return there[0].status
    who = ranks_words([one.rank for one in training])
    are = "is" if len(training) == 1 else "are"
    return RunStatus(StatusKind.LIVE, training[0].status.seconds, f"{who} of {size} {are} training")


def _ended(ranks: Sequence[RankState], size: int) -> RunStatus:
    """Return the status of a run without active ranks."""
    for kind in (StatusKind.HALTED, *_GONE, StatusKind.STOPPED):
        found = [one for one in ranks if one.status.kind is kind]
        if not found:
            continue
        if kind in (StatusKind.DEAD, StatusKind.FAILED):
            found = _earliest_first([one for one in ranks if one.status.kind in _GONE])
        # If one rank died and another failed because of it, the earlier one is the cause.
        first = found[0].status
        seconds = min((o.status.seconds for o in found if o.status.seconds is not None),
                      default=None)  # fmt: skip
        is_same = len({one.status.sentence for one in found}) == 1
        if len(found) == len(ranks) and (is_same or kind is StatusKind.HALTED):
            return RunStatus(first.kind, seconds, first.sentence)  # of a halt, it names the rank
        if len(found) > 1 and all(one.status.kind is StatusKind.DEAD for one in found):
            return RunStatus(kind, seconds, _all_dead(found, size))
        return RunStatus(first.kind, seconds, _named(found, size))
    return ranks[0].status


def _all_dead(ranks: Sequence[RankState], size: int) -> str:
    """Return the sentence on ranks that are all gone, with the first if that is known."""
    first = _first_silent(ranks)
    if first is None:
        who = ranks_words([one.rank for one in ranks])
        return f"{who} of {size} are gone and reported no end; which was first is not known"
    others = [one.rank for one in ranks if one is not first]
    are = "is" if len(others) == 1 else "are"
    return (
        f"rank {first.rank} of {size} was first: {first.status.sentence}; {ranks_words(others)} "
        f"{are} gone, too"
    )


def _first_silent(ranks: Sequence[RankState]) -> RankState | None:
    """Return the rank that ended first; None if heartbeats cannot tell.

    A rank was first if it was already silent for longer than between two heartbeats when each of
    the others sent its last one. Clocks of several machines may differ by more, so there it is not
    known.
    """
    machines = {one.machine for one in ranks}
    if len(machines) > 1 or any(one.ended_at is None for one in ranks):
        return None
    first, *others = _earliest_first(ranks)
    ends = [(one.ended_at or 0.0) - (first.ended_at or 0.0) for one in others]
    return first if min(ends) > _BEATS_SECONDS else None


def _earliest_first(ranks: Sequence[RankState]) -> list[RankState]:
    """Return ranks in order of their last heartbeat; unknown ones come last."""
    return sorted(ranks, key=lambda one: (one.ended_at is None, one.ended_at or 0.0, one.rank))


def _named(ranks: Sequence[RankState], size: int) -> str:
    """Return "rank 1 of 4: process 7 is gone and reported no end", for a few ranks."""
    named = [f"rank {one.rank} of {size}: {one.status.sentence}" for one in ranks[:_GROUPS_NAMED]]
    more = [one.rank for one in ranks[_GROUPS_NAMED:]]
    return "; ".join([*named, *([f"{ranks_words(more)}, too"] if more else [])])


def joined_completeness(
    ranks: Sequence[RankState], damaged_events: int, *, is_starting: bool
) -> Completeness:
    """Return whether all events of the ranks of a run are known.

    Args:
        ranks: all ranks that should have a store, and all that have one, in order.
        damaged_events: of all stores.
        is_starting: whether ranks without a store may still come.
    """
    first, *others = ranks
    size = len(ranks)
    missing = [one.rank for one in ranks if not one.has_store]
    gap = first.completeness.gap
    if gap is not None:
        gap = f"rank {first.rank}: {gap}"
    for one in others:
        known = one.completeness
        found = known.unreadable or known.gap
        if gap is None and found is not None:
            gap = f"rank {one.rank}: {found}"
    if gap is None and not is_starting:
        lacking = ((one, lacks_of(one, ranks)) for one in ranks if one.has_store)
        gap = next((f"rank {one.rank}: {lacks}" for one, lacks in lacking if lacks), None)
    if missing and not is_starting:
        have = "has" if len(missing) == 1 else "have"
        gap = f"{ranks_words(missing)} of {size} {have} no store"
    return Completeness(first.completeness.unreadable, damaged_events, gap)


def lacks_of(one: RankState, ranks: Sequence[RankState]) -> str | None:
    """Return what a rank lacks, as only the other ranks show; None if nothing.

    An empty store, and an older copy of a store, are complete in themselves.

    Args:
        one: the rank.
        ranks: all ranks of the run.
    """
    if not one.has_store:
        return "it has no store"
    if one.status.kind is StatusKind.WAITING:
        has_begun = any(other.status.kind is not StatusKind.WAITING for other in ranks)
        return "its store is empty" if has_begun else None
    last = max(ranks, key=lambda other: other.update)
    if one.status.kind is StatusKind.DEAD and one.update < last.update:
        return (
            f"its store ends with update {one.update}, that of rank {last.rank} with update "
            f"{last.update}"
        )
    return None

"""The state of a run with several ranks, from the state of each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Final

from esper.karn.sanctum.fold.ledgers.incident_ledger import INCIDENTS_KEPT
from esper.karn.sanctum.fold.ranks.joined_lights import joined_lights, of_rank
from esper.karn.sanctum.fold.ranks.one_per_fault import FaultPlace, one_per_fault
from esper.karn.sanctum.schema import (
    IncidentState,
    InterventionState,
    LogEntry,
    RunState,
    SanctumSnapshot,
    TrainingState,
)
from esper.karn.store.rank_folders import rank_folder

#: Levels of the lines of other ranks that the joined log includes.
_LEVELS_SHOWN: Final = ("latch", "warning", "error")


def joined_snapshot(snapshots: Mapping[int, SanctumSnapshot]) -> SanctumSnapshot:
    """Return the state of a run from the states of its ranks, whatever their order.

    Lights, evidence, incidents, damage and failures are those of all ranks. Everything else, such
    as figures and their histories, is that of the first rank that has started.

    Args:
        snapshots: state of each rank by its number; at least one.
    """
    ranks = sorted(snapshots)
    started = [rank for rank in ranks if snapshots[rank].run.run_id] or ranks
    base = snapshots[started[0]]
    states = [snapshots[rank] for rank in (started[0], *(r for r in ranks if r != started[0]))]
    incidents = _incidents({rank: snapshots[rank].incidents for rank in ranks})
    return replace(
        base,
        run=_run(base.run, {rank: snapshots[rank].run for rank in ranks}),
        tamiyo=joined_lights(
            [
                of_rank(snapshots[rank].tamiyo, rank, snapshots[rank].incidents)
                for rank in (started[0], *(one for one in ranks if one != started[0]))
            ]
        ),
        training=_training(base.training, [one.training for one in states]),
        interventions=_interventions([one.interventions for one in states], states, incidents),
        incidents=incidents[-INCIDENTS_KEPT:],
        log=_log(started[0], {rank: snapshots[rank].log for rank in ranks}),
    )


def _run(base: RunState, runs: Mapping[int, RunState]) -> RunState:
    failures = [(rank, one.last_monitor_failure) for rank, one in sorted(runs.items())]
    failed = [(rank, text) for rank, text in failures if text]
    heads = dict(base.heads)
    for one in runs.values():
        heads |= {head: choices for head, choices in one.heads.items() if head not in heads}
    return replace(
        base,
        heads=heads,
        events_lost=sum(one.events_lost for one in runs.values()),
        damaged_events=sum(one.damaged_events for one in runs.values()),
        unknown_events=sum(one.unknown_events for one in runs.values()),
        monitor_failures=sum(one.monitor_failures for one in runs.values()),
        last_monitor_failure=f"rank {failed[0][0]}: {failed[0][1]}" if failed else "",
    )


def _training(base: TrainingState, states: Sequence[TrainingState]) -> TrainingState:
    since = [one.stalled_since for one in states if one.stalled_since is not None]
    if not any(one.stalled_latch for one in states):
        return base
    return replace(base, stalled_latch=True, stalled_since=min(since, default=None))


def _interventions(
    states: Sequence[InterventionState],
    snapshots: Sequence[SanctumSnapshot],
    incidents: Sequence[IncidentState],
) -> InterventionState:
    """Return the counts of a run: ranks act together, so that each of them counts the same."""
    listed = [len(one.incidents) for one in snapshots]
    older = max(max(0, one.incidents - own) for one, own in zip(states, listed, strict=True))
    not_kept = sum(not one.path for one in incidents)
    return InterventionState(
        updates_repeated=max(one.updates_repeated for one in states),
        updates_skipped=max(one.updates_skipped for one in states),
        updates_rolled_back=max(one.updates_rolled_back for one in states),
        halts=max(one.halts for one in states),
        incidents=len(incidents) + older,
        incidents_not_kept=not_kept + older,
    )


def _incidents(of_ranks: Mapping[int, Sequence[IncidentState]]) -> tuple[IncidentState, ...]:
    """Return one incident for each fault, that of the rank in which it began."""
    given = [
        (rank, one.update, FaultPlace(one.phase, one.minibatch, one.is_spread), one)
        for rank, incidents in of_ranks.items()
        for one in incidents
    ]

    def with_others(rank: int, one: IncidentState, others: tuple[int, ...]) -> IncidentState:
        path = str(rank_folder(PurePath(), rank) / one.path) if one.path else ""
        return replace(one, path=path, rank=rank, also_in=others)

    return tuple(one_per_fault(given, with_others))


def _log(base: int, logs: Mapping[int, Sequence[LogEntry]]) -> tuple[LogEntry, ...]:
    """Return the log of one rank with what other ranks warn of, in order of time.

    Lines are found again by the id of their event in the store of the first rank. Those of others
    have the id of the line before.
    """
    added = [
        (line, f"rank {rank}: {line.text}")
        for rank in sorted(logs)
        if rank != base
        for line in logs[rank]
        if line.level in _LEVELS_SHOWN
    ]
    if not added:
        return tuple(logs[base])
    added.sort(key=lambda one: one[0].time)
    joined: list[LogEntry] = []
    place = 0
    for line in logs[base]:
        while place < len(added) and added[place][0].time < line.time:
            joined.append(_placed(*added[place], joined))
            place += 1
        joined.append(line)
    for one in added[place:]:
        joined.append(_placed(*one, joined))
    return tuple(joined)


def _placed(line: LogEntry, text: str, before: Sequence[LogEntry]) -> LogEntry:
    return replace(line, text=text, event_id=before[-1].event_id if before else 0, lead=0)

"""Joins the lights of several ranks; like the lights of one rank, they form a join semilattice.

Joining is commutative, associative and idempotent, so ranks may be joined in any order, and more
than once. The first-out of the run is the earliest first sighting of all ranks. In the same
minibatch, quantities that a rank computed itself come before shared ones, such as gradients; then
the causal order decides, then the lower rank.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from esper.karn.sanctum.fold.evidence import ROWS_KEPT
from esper.karn.sanctum.fold.latches import moment
from esper.karn.sanctum.schema import Evidence, FirstSighting, IncidentState, TamiyoState
from esper.karn.store.sightings import is_repeated, phase_rank, step_in_phase
from esper.leyline.quantities import SHARED_BY_RANKS, causal_rank
from esper.leyline.telemetry import GROUPS

_Key = tuple[Any, ...]


def of_rank(tamiyo: TamiyoState, rank: int, incidents: Sequence[IncidentState] = ()) -> TamiyoState:
    """Return the lights of one rank, with its number on each sighting.

    Args:
        tamiyo: its lights.
        rank: its number.
        incidents: its incidents. What began in an operation of this rank did not come from others.
    """
    born = {(one.update, one.phase, one.minibatch) for one in incidents if one.origin is not None}
    return replace(
        tamiyo,
        first=tuple(
            replace(seen, rank=rank, began_here=(seen.update, seen.phase, seen.minibatch) in born)
            for seen in tamiyo.first
        ),
        evidence=tuple(
            replace(
                row,
                first_rank=rank,
                began_here=(row.first_update, row.first_phase, row.first_minibatch) in born,
            )
            for row in tamiyo.evidence
        ),
    )


def joined_lights(states: Sequence[TamiyoState]) -> TamiyoState:
    """Return the lights of several ranks as one state; figures are those of the first state.

    Args:
        states: of ranks, as `of_rank` returns them, or joined before; at least one.
    """
    heads = list(dict.fromkeys(head for one in states for head in one.head_inf_latch))
    groups = list(dict.fromkeys(group for one in states for group in one.group_inf_latch))
    names = {name: place for place, name in enumerate((*GROUPS, *heads))}
    evidence = _joined_evidence((row for one in states for row in one.evidence), names)
    return replace(
        states[0],
        head_inf_latch=_any(heads, [one.head_inf_latch for one in states]),
        head_nan_latch=_any(heads, [one.head_nan_latch for one in states]),
        head_inf_active=_any(heads, [one.head_inf_active for one in states]),
        head_nan_active=_any(heads, [one.head_nan_active for one in states]),
        group_inf_latch=_any(groups, [one.group_inf_latch for one in states]),
        group_nan_latch=_any(groups, [one.group_nan_latch for one in states]),
        group_inf_active=_any(groups, [one.group_inf_active for one in states]),
        group_nan_active=_any(groups, [one.group_nan_active for one in states]),
        first=_joined_first((seen for one in states for seen in one.first), evidence, names),
        evidence=evidence,
    )


def _any(names: Iterable[str], lights: Sequence[Mapping[str, bool]]) -> dict[str, bool]:
    return {name: any(one.get(name, False) for one in lights) for name in names}


def _joined_first(
    sightings: Iterable[FirstSighting], evidence: Sequence[Evidence], names: Mapping[str, int]
) -> tuple[FirstSighting, ...]:
    first: dict[tuple[str, str], FirstSighting] = {}
    for seen in sightings:
        light = seen.head, seen.kind
        known = first.get(light)
        first[light] = seen if known is None or _when(seen) < _when(known) else known
    rows = {(row.head, row.quantity, row.kind): row for row in evidence}
    found = []
    for seen in sorted(first.values(), key=lambda one: _first_order(one, names)):
        row = rows.get((seen.head, seen.quantity, seen.kind))
        if row is not None:  # what one rank did not reproduce, another may have
            reproduced = not is_repeated(seen.phase) or row.reproduced
            seen = replace(seen, reproduced=reproduced, planted=row.planted)
        found.append(seen)
    return tuple(found)


def _when(seen: FirstSighting) -> _Key:
    """Return a key that sorts sightings of all ranks by time."""
    update, phase, name, epoch, minibatch, step, *rest = moment(seen)
    is_shared = seen.quantity in SHARED_BY_RANKS and not seen.began_here
    return update, phase, name, epoch, minibatch, step, is_shared, *rest, _number(seen.rank)


def _first_order(seen: FirstSighting, names: Mapping[str, int]) -> _Key:
    *when, part, rank = _when(seen)
    return *when, names.get(seen.head, len(names)), seen.head, seen.kind, part, rank


def _joined_evidence(rows: Iterable[Evidence], names: Mapping[str, int]) -> tuple[Evidence, ...]:
    joined: dict[tuple[str, str, str], Evidence] = {}
    for row in rows:
        source = row.head, row.quantity, row.kind
        known = joined.get(source)
        joined[source] = row if known is None else _joined_row(known, row)
    found = sorted(joined.values(), key=lambda row: _row_order(row, names))
    return tuple(found[:ROWS_KEPT])


def _joined_row(one: Evidence, other: Evidence) -> Evidence:
    first, second = sorted((one, other), key=_began)
    last = max((one, other), key=_ended)
    ranks = {_number(row.first_rank) for row in (one, other)} | {*one.other_ranks}
    ranks |= {*other.other_ranks}
    is_same_update = second.first_update == first.first_update
    hosts = {*first.other_hosts, *(second.other_hosts if is_same_update else ())}
    return replace(
        first,
        last_update=last.last_update,
        last_epoch=last.last_epoch,
        last_minibatch=last.last_minibatch,
        last_phase=last.last_phase,
        last_part=last.last_part,
        updates=max(one.updates, other.updates),
        minibatches=max(one.minibatches, other.minibatches),
        steps=max(one.steps, other.steps),
        is_active=one.is_active or other.is_active,
        other_hosts=tuple(sorted(hosts)),
        reproduced=one.reproduced or other.reproduced,
        planted=one.planted and other.planted,
        other_ranks=tuple(sorted(ranks - {_number(first.first_rank)})),
    )


def _began(row: Evidence) -> _Key:
    return (
        row.first_update,
        phase_rank(row.first_phase),
        row.first_phase,
        row.first_epoch,
        row.first_minibatch,
        step_in_phase(row.first_phase, row.first_step),
        row.quantity in SHARED_BY_RANKS and not row.began_here,
        causal_rank(row.quantity),
        _number(row.first_step),
        _number(row.first_host),
        row.first_part,
        _number(row.first_rank),
    )


def _ended(row: Evidence) -> _Key:
    return (
        row.last_update,
        phase_rank(row.last_phase),
        row.last_phase,
        row.last_epoch,
        row.last_minibatch,
        row.last_part,
    )


def _row_order(row: Evidence, names: Mapping[str, int]) -> _Key:
    *when, part, rank = _began(row)
    return *when, names.get(row.head, len(names)), row.head, row.kind, part, rank


def _number(value: int | None) -> int:
    return -1 if value is None else value

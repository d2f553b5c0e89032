"""The evidence of a run: where, when and how often each kind of non-finite value was seen.

Like the latches, it is a join semilattice. Reports of the same update are joined by the larger
counts, the earlier first and the later last sighting, so that an update counts once however often
it is reported. A source is reproduced if any sighting of it is, apart from phases that are never
repeated, and planted only if all sightings of it are. Events may therefore arrive in any order,
twice, or divided among any number of readers. An update that a resume trained again is the same
update.

Every bad update is kept by its number for this. It takes less than a hundred bytes per update and
row, and a run has few of them, because training that stays bad is rolled back and halted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from esper.karn.sanctum.schema import Evidence
from esper.karn.store.sightings import (
    Moment,
    Source,
    last_moment_of,
    minibatches_of,
    moment_of,
    reproduction_of,
    sightings_of,
    source_of,
    step_in_phase,
    steps_of,
)
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import GROUPS, IncidentRecorded, NonfiniteSighting, PPOUpdatePayload
from esper.leyline.text.plurals import counted
from esper.leyline.text.rank_words import ranks_words
from esper.leyline.text.sighting_words import NOT_REPRODUCED, PLANTED, joined, place_words

#: Maximum number of rows; eight heads and the groups have at most 300.
ROWS_KEPT: Final = 512

_TRAINING: Final = "hosts"  # phase with a sighting for each failed host
_MINIBATCHES: Final = "update"  # phase with minibatches
_IN_A_MINIBATCH: Final = "in a minibatch"


class _Counts(NamedTuple):
    """Number of sightings in one update, and the hosts whose training had them."""

    minibatches: int
    steps: int
    hosts: frozenset[int] = frozenset()

    def join(self, other: "_Counts") -> "_Counts":
        return _Counts(
            max(self.minibatches, other.minibatches),
            max(self.steps, other.steps),
            self.hosts | other.hosts,
        )


_NONE: Final = _Counts(0, 0)


@dataclass
class _Trail:
    first: Moment
    last: Moment
    counts: dict[int, _Counts] = field(default_factory=dict)  # by update
    reproduction: int = -1  # the largest `reproduction_of`
    planted: bool = True  # until a sighting was not planted
    minibatches: int = 0  # the sums of the counts
    steps: int = 0

    def join(self, other: "_Trail") -> None:
        self.first = min(self.first, other.first)
        self.last = max(self.last, other.last)
        self.reproduction = max(self.reproduction, other.reproduction)
        self.planted &= other.planted
        for update, counts in other.counts.items():
            known = self.counts.get(update, _NONE)
            larger = self.counts[update] = known.join(counts)
            self.minibatches += larger.minibatches - known.minibatches
            self.steps += larger.steps - known.steps


@dataclass
class EvidenceLedger:
    """Where each kind of non-finite value was first and last seen, and how often."""

    _trails: dict[Source, _Trail] = field(default_factory=dict, init=False)

    def join_update(self, payload: PPOUpdatePayload | IncidentRecorded) -> None:
        """Join the sightings of one update or incident."""
        self.join_sightings(payload.update, sightings_of(payload))

    def join_sightings(self, update: int, sightings: Iterable[NonfiniteSighting]) -> None:
        """Join some sightings of one update."""
        for seen in sightings:
            trail = _Trail(
                first=moment_of(update, seen),
                last=last_moment_of(update, seen),
                counts={update: _counts_of(seen)},
                reproduction=reproduction_of(seen),
                planted=seen.planted,
            )
            self._join(source_of(seen), trail)

    def copy(self) -> "EvidenceLedger":
        """Return an independent copy."""
        copy = EvidenceLedger()
        copy.join(self)
        return copy

    def join(self, other: "EvidenceLedger") -> None:
        """Join the evidence of another reader of the run."""
        for source, trail in other._trails.items():
            self._join(source, trail)

    def _join(self, source: Source, other: _Trail) -> None:
        trail = self._trails.get(source)
        if trail is None:
            trail = self._trails[source] = _Trail(other.first, other.last)
        trail.join(other)

    def rows(self, heads: Iterable[str], active: Iterable[Source] = ()) -> tuple[Evidence, ...]:
        """Return a row for each source, in order of first sighting.

        Within one minibatch, or one step of an episode, rows are in the order of computation; then
        groups precede heads, and heads are in the given order. At most `ROWS_KEPT` rows are
        returned, the earliest ones.

        Args:
            heads: names of the heads, in order.
            active: sources that were seen in the last update.
        """
        ranks = {head: rank for rank, head in enumerate((*GROUPS, *heads))}
        is_active = set(active)

        def order(source: Source) -> tuple[object, ...]:
            head, quantity, kind = source
            *when, step, host, part = self._trails[source].first
            where = ranks.get(head, len(ranks)), head, kind, part
            now = step_in_phase(self._trails[source].first.phase, step)
            return *when, now, causal_rank(quantity), step, host, *where

        return tuple(
            _row(source, self._trails[source], is_active=source in is_active)
            for source in sorted(self._trails, key=order)[:ROWS_KEPT]
        )


def evidence_words(row: Evidence) -> str:
    """Return the details of a row beyond update, epoch and minibatch; first the ranks that saw it.

    For example "while acting, host 4, step 7". Empty for a row that was only seen in minibatches
    and was reproduced.
    """
    words = place_words(row.first_phase, row.first_host, row.first_step, row.other_hosts)
    first = joined(row.first_part, words)
    if (row.first_phase, row.first_part) != (row.last_phase, row.last_part):
        if row.first_phase == _MINIBATCHES:
            first = joined(row.first_part, _IN_A_MINIBATCH, words)
        last = joined(row.last_part, place_words(row.last_phase, None, None) or _IN_A_MINIBATCH)
        first = f"first {first}; last {last}"
    steps = f"in {counted(row.steps, 'step')}" if row.steps else ""
    ranks = "" if row.first_rank is None else ranks_words([row.first_rank])
    if ranks and row.other_ranks:
        ranks += f", also in {ranks_words(row.other_ranks)}"
    return joined(
        ranks,
        first,
        steps,
        "" if row.reproduced else NOT_REPRODUCED,
        PLANTED if row.planted else "",
    )


def _counts_of(seen: NonfiniteSighting) -> _Counts:
    hosts = () if seen.host is None or seen.phase != _TRAINING else (seen.host,)
    return _Counts(minibatches_of(seen), steps_of(seen), frozenset(hosts))


def _row(source: Source, trail: _Trail, *, is_active: bool) -> Evidence:
    head, quantity, kind = source
    first, last = trail.first, trail.last
    return Evidence(
        head=head,
        quantity=quantity,
        kind=kind,
        first_update=first.update,
        first_epoch=first.epoch,
        first_minibatch=first.minibatch,
        last_update=last.update,
        last_epoch=last.epoch,
        last_minibatch=last.minibatch,
        updates=len(trail.counts),
        minibatches=trail.minibatches,
        is_active=is_active,
        first_phase=first.phase,
        first_host=None if first.host < 0 else first.host,
        first_step=None if first.step < 0 else first.step,
        first_part=first.part,
        last_phase=last.phase,
        last_part=last.part,
        steps=trail.steps,
        other_hosts=tuple(sorted(trail.counts[first.update].hosts - {first.host})),
        reproduced=trail.reproduction != 0,
        planted=trail.planted,
    )

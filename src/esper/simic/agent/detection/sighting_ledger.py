"""Sightings of an update: joined over the places in which they were seen, and put in order."""

from collections.abc import Iterable, Sequence

from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import HOSTS, PHASES, SHARED, STEP_PHASES, NonfiniteSighting
from esper.simic.agent.detection.findings import Finding


class SightingLedger:
    """Collects findings as sightings, one for each head, quantity, kind and phase.

    Args:
        per_epoch: number of minibatches in an epoch.
    """

    def __init__(self, per_epoch: int) -> None:
        self._per_epoch = per_epoch
        self._seen: dict[tuple[str, str, str, str], NonfiniteSighting] = {}

    def add(
        self, finding: Finding, phase: str, index: int | None = None, *, reproduced: bool
    ) -> None:
        """Add a finding.

        Args:
            finding: the finding.
            phase: one of `PHASES`.
            index: index of its minibatch; None outside of minibatches.
            reproduced: whether it was seen in both passes over the update.
        """
        epoch, minibatch = 0, 0
        if index is not None:
            epoch, minibatch = index // self._per_epoch + 1, index % self._per_epoch + 1
        new = NonfiniteSighting(
            head=finding.head,
            quantity=finding.quantity,
            kind=finding.kind,
            count=1,
            epoch=epoch,
            minibatch=minibatch,
            last_epoch=epoch,
            last_minibatch=minibatch,
            phase=phase,
            host=finding.host,
            step=finding.step,
            part=finding.part,
            reproduced=reproduced,
        )
        key = (*finding.source, phase)
        known = self._seen.get(key)
        self._seen[key] = new if known is None else _joined(known, new)

    def sightings(self) -> list[NonfiniteSighting]:
        """Return all sightings, in the order in which they were first added."""
        return list(self._seen.values())


def _joined(one: NonfiniteSighting, other: NonfiniteSighting) -> NonfiniteSighting:
    """Return one sighting for two of the same head, quantity, kind and phase."""
    first, last = sorted((one, other), key=lambda s: (s.epoch, s.minibatch))
    is_same_place = (one.epoch, one.minibatch) == (other.epoch, other.minibatch)
    last_place = max((one.last_epoch, one.last_minibatch), (last.epoch, last.minibatch))
    return NonfiniteSighting(
        head=one.head,
        quantity=one.quantity,
        kind=one.kind,
        count=one.count + (not is_same_place and one.phase == "update"),
        epoch=first.epoch,
        minibatch=first.minibatch,
        last_epoch=last_place[0],
        last_minibatch=last_place[1],
        phase=one.phase,
        host=first.host,
        step=first.step,
        part=first.part,
        reproduced=one.reproduced or other.reproduced,
    )


def in_order(
    sightings: Iterable[NonfiniteSighting], heads: Sequence[str]
) -> list[NonfiniteSighting]:
    """Return sightings in causal order: by phase, minibatch or step of an episode, and quantity.

    In one place, hosts come before shared quantities, these before heads, and Inf before NaN, since
    an Inf often becomes a NaN.
    """
    place = {head: number for number, head in enumerate((HOSTS, SHARED, *heads))}
    return sorted(
        sightings,
        key=lambda s: (
            PHASES.index(s.phase),
            s.epoch,
            s.minibatch,
            s.step or 0 if s.phase in STEP_PHASES else 0,
            causal_rank(s.quantity),
            place[s.head],
            s.kind,
            -1 if s.host is None else s.host,
        ),
    )

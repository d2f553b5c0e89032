"""Findings: one non-finite value each, and those in the state of an agent."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.leyline.text.sighting_words import STEP_COUNTER
from esper.simic.agent.detection.anatomy import Anatomy
from esper.simic.agent.detection.codes import KINDS, StateCodes


@dataclass(frozen=True)
class Finding:
    """One cause: what was not finite, and where first."""

    head: str  # a head's name, or SHARED
    quantity: str
    kind: str
    host: int | None = None  # counted from 0
    step: int | None = None  # counted from 1
    part: str = ""

    @property
    def source(self) -> tuple[str, str, str]:
        """Return head, quantity and kind."""
        return self.head, self.quantity, self.kind


def parameter_findings(codes: Tensor, anatomy: Anatomy, quantity: str) -> Iterator[Finding]:
    """Yield a finding for each head and kind in codes `[P]`; trunk and critic are shared."""
    seen = set()
    for place in codes.nonzero().flatten().tolist():
        head = anatomy.head_name(int(anatomy.owner[place]))
        kind = KINDS[int(codes[place])]
        if (head, kind) not in seen:
            seen.add((head, kind))
            yield Finding(head, quantity, kind, part=anatomy.part_at(place))


def moment_findings(state: StateCodes, anatomy: Anatomy) -> Iterator[Finding]:
    """Yield a finding for each head and kind in the moments, and for Adam's step counter."""
    seen = set()
    for name, codes in (("exp_avg", state.first_moment), ("exp_avg_sq", state.second_moment)):
        for found in parameter_findings(codes, anatomy, "moments"):
            if (found.head, found.kind) not in seen:
                seen.add((found.head, found.kind))
                part = f"{name} of {found.part}"
                yield Finding(found.head, found.quantity, found.kind, part=part)
    if state.step:
        yield Finding(SHARED, "moments", KINDS[int(state.step)], part=STEP_COUNTER)


def state_findings(state: StateCodes, anatomy: Anatomy) -> Iterator[Finding]:
    """Yield a finding for each head, quantity and kind in a state."""
    yield from parameter_findings(state.parameters, anatomy, "parameters")
    yield from moment_findings(state, anatomy)
    if state.loss_scale:
        yield Finding(SHARED, "loss_scale", KINDS[int(state.loss_scale)])

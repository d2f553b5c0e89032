"""What broke before the update, while acting or in a host, for the detection campaign.

The sightings are handed in; the update must pass them on, light their heads, report nothing that
they explain, and learn nothing from a host that is not learnable.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch

from detection.faults import HEAD_FAULTS
from detection.stage import VALUES, Sight, Stage, Where, is_finite, planted, with_parts
from detection.verdict import ATTRIBUTION, Complaint, complaint_of_faults
from esper.leyline.telemetry import HOSTS, SHARED, NonfiniteSighting
from esper.simic.agent.figures import UpdateResult

_FORWARD_FAULTS = tuple(fault for fault in HEAD_FAULTS if fault.reach == "head")


def _sighting(
    phase: str, head: str, quantity: str, kind: str, where: Where, count: int = 1
) -> NonfiniteSighting:
    return NonfiniteSighting(
        head=head,
        quantity=quantity,
        kind=kind,
        count=count,
        epoch=0,
        minibatch=0,
        phase=phase,
        host=where.host,
        step=where.step + 1,
    )


def acting_logits(stage: Stage, where: Where) -> list[NonfiniteSighting]:
    """A logit while acting: the rollout shows nothing of it."""
    return [_sighting("acting", stage.head_name(where), "logits", stage.kind(), where)]


def _without_values(stage: Stage, where: Where, steps: range) -> None:
    values, following = stage.rollout.values.clone(), stage.rollout.next_values.clone()
    for step in steps:
        values[step, where.host] = math.nan
        if step > 0:
            following[step - 1, where.host] = math.nan
    stage.rollout = with_parts(stage.rollout, values=values, next_values=following)


def acting_value(stage: Stage, where: Where) -> list[NonfiniteSighting]:
    """A value while acting: the advantages of that host show it."""
    _without_values(stage, where, range(where.step, where.step + 1))
    return [_sighting("acting", SHARED, "value", "nan", where)]


def acting_trunk(stage: Stage, where: Where) -> list[NonfiniteSighting]:
    """The trunk while acting, from one step on: values with it."""
    _without_values(stage, where, range(where.step, stage.rollout.steps))
    count = stage.rollout.steps - where.step
    return [_sighting("acting", SHARED, "trunk", "nan", where, count)]


def acting_observations(stage: Stage, where: Where) -> list[NonfiniteSighting]:
    """An observation while acting: rollout, trunk and values have it from there on."""
    _without_values(stage, where, range(where.step, stage.rollout.steps))
    kind = stage.kind()
    observations = planted(stage.rollout.observations, (where.step, where.host, 0), VALUES[kind])
    stage.rollout = with_parts(stage.rollout, observations=observations)
    return [_sighting("acting", SHARED, "observations", kind, where)]


ACTING: tuple[Callable[[Stage, Where], list[NonfiniteSighting]], ...] = (
    acting_logits, acting_value, acting_trunk, acting_observations,
)  # fmt: skip


def run_acting(stage: Stage, turn: int) -> tuple[str, Complaint | None] | None:
    """Run a case of acting, alone or with a fault of another host in the update."""
    where = stage.where()
    broken = ACTING[turn % len(ACTING)]
    before = broken(stage, where)
    expected: list[Sight] = []
    company = (turn // len(ACTING)) % 3
    if company == 1:
        others = [n for n in range(stage.rollout.hosts) if n != where.host]
        other = replace(where, host=stage.random.choice(others))
        name = "rewards"
        stage.rollout = with_parts(
            stage.rollout,
            rewards=planted(stage.rollout.rewards, (other.step, other.host), math.nan),
        )
        places = (("preparation", 0, 0), ("update", *stage.places_of(other.host)[0]))
        expected = [Sight(SHARED, "advantages", "nan", places, host=other.host, step=1)]
    elif company == 2:
        there = stage.where()
        fault = stage.random.choice(_FORWARD_FAULTS)
        sight = None if there.host == where.host else fault.plant(stage, there)
        if sight is None or sight.head == before[0].head:
            return None
        expected, name = [sight], fault.name
    else:
        name = "alone"
    result = stage.update(before=before)
    complaint = complaint_of_faults(result, expected, before)
    if complaint is None and not expected:
        complaint = _complaint_of_a_quiet_update(result, before)
    if complaint is None and not is_finite(stage):
        complaint = ATTRIBUTION, "the state is not finite afterwards"
    return f"{broken.__name__} {name}", complaint


def _complaint_of_a_quiet_update(
    result: UpdateResult, before: list[NonfiniteSighting]
) -> Complaint | None:
    """Return what is wrong with an update that has nothing to report but what was handed in."""
    if result.figures.head_nonfinite != before:
        return ATTRIBUTION, f"more than was handed in: {result.figures.head_nonfinite}"
    if before[0].quantity == "logits" and result.figures.minibatches_skipped:
        return ATTRIBUTION, f"{result.figures.minibatches_skipped} good minibatches were skipped"
    return None


def run_hosts(stage: Stage, turn: int) -> tuple[str, Complaint | None] | None:
    """Run a case with hosts that must not be learnt from.

    Two equal agents make the update: one is given rollouts whose bad hosts hold NaN and Inf, the
    other the same with finite values there. Both must end with the same weights, bit for bit.
    """
    random, hosts = stage.random, stage.rollout.hosts
    quantity = ("loss", "parameters", "moments")[turn % 3]
    count = random.choice((1, 1, 2, hosts - 1, hosts))
    bad = sorted(random.sample(range(hosts), count))
    before = [
        _sighting("hosts", HOSTS, quantity, "nan", replace(stage.where(), host=host))
        for host in bad[:1]
    ]
    learnable = torch.ones(hosts, dtype=torch.bool)
    learnable[bad] = False
    finite = stage.rollout
    name = f"{quantity} of hosts"
    expected: list[Sight] = []
    if (turn // 3) % 3 == 1 and count < hosts:  # and a good host has a reward that is none
        host = random.choice([n for n in range(hosts) if n not in bad])
        step = random.randrange(finite.steps)
        rewards = planted(finite.rewards, (step, host), math.nan)
        finite = with_parts(finite, rewards=rewards)
        places = (("preparation", 0, 0), ("update", 1, 1))
        places += tuple(("update", 1, n + 2) for n in range(stage.per_epoch))
        expected = [Sight(SHARED, "advantages", "nan", places, host=host, step=1)]
        name += " and a reward"
    broken = finite
    for part in ("observations", "rewards", "values", "next_values"):
        values = getattr(broken, part).clone()
        for host in bad:
            step = random.randrange(finite.steps)
            if part in ("rewards", "observations") or random.random() < 0.5:
                values[step:, host] = VALUES[stage.kind()]
        broken = with_parts(broken, **{part: values})
    twin = copy.deepcopy(stage.agent.state_dict())
    start = stage.agent.parameters.flat.detach().clone()
    stage.rollout = replace(broken, learnable=learnable)
    result = stage.update(before=before)
    ended = stage.agent.parameters.flat.detach().clone()
    complaint = complaint_of_faults(result, expected, before)
    if complaint is None and not expected and result.figures.head_nonfinite != before:
        complaint = ATTRIBUTION, f"more than was handed in: {result.figures.head_nonfinite}"
    if complaint is None and not is_finite(stage):
        complaint = ATTRIBUTION, "the state is not finite afterwards"
    if complaint is None and not expected:
        if result.figures.minibatches_skipped:
            complaint = (
                ATTRIBUTION,
                f"{result.figures.minibatches_skipped} good minibatches skipped",
            )
        elif (
            count < hosts and torch.equal(start, ended) and not result.figures.minibatches_rescaled
        ):
            complaint = ATTRIBUTION, "nothing was learnt from the other hosts"
    if complaint is None:
        stage.agent.load_state_dict(twin)
        stage.rollout = replace(finite, learnable=learnable)
        stage.update(before=before)
        if not torch.equal(stage.agent.parameters.flat.detach(), ended):
            complaint = ATTRIBUTION, "a host that is not learnable changed the weights"
    return name, complaint

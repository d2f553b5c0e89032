"""Drills are distinguished from faults: only what they cause is marked."""

from collections.abc import Callable
from typing import Any

import pytest

from esper.simic.agent.drill_hook import mark_planted, update_with_drills
from esper.simic.drill import Injection


def test_what_a_drill_lights_is_marked(make_agent: Callable[..., Any], make_rollout: Any) -> None:
    agent = make_agent(ppo_epochs=2, minibatches=2)
    found = update_with_drills(
        agent, make_rollout(agent), [Injection("op", "logits", "inf", 1)]
    ).figures.head_nonfinite
    assert ("op", "logits", "+inf") in [(s.head, s.quantity, s.kind) for s in found]
    assert all(seen.planted for seen in found)


def test_a_fault_in_the_same_update_as_a_drill_is_not_marked(
    make_agent: Callable[..., Any], make_rollout: Any
) -> None:
    agent = make_agent(ppo_epochs=2, minibatches=2)
    rollout = make_rollout(agent)
    rollout.observations[0, -1, 0] = float("nan")
    found = update_with_drills(
        agent, rollout, [Injection("op", "logits", "inf", 1)]
    ).figures.head_nonfinite
    heads = {seen.head for seen in found if seen.planted}
    assert heads <= {"op"}
    assert any(seen.head == "shared" and not seen.planted for seen in found)


@pytest.mark.parametrize(
    ("changes", "is_planted"),
    [
        ({}, True),
        ({"head": "slot"}, False),
        ({"epoch": 2, "last_epoch": 2}, False),
        ({"last_epoch": 2, "count": 2}, False),  # once more where nothing was planted
        ({"count": 2}, False),
        ({"phase": "acting", "epoch": 0, "minibatch": 0}, False),
        ({"phase": "given", "epoch": 0, "minibatch": 0, "count": 0}, False),
    ],
)
def test_only_the_minibatch_and_the_head_of_the_drill_count(
    payloads: Any, changes: dict[str, Any], is_planted: bool
) -> None:
    seen = payloads.sighting(
        **{"epoch": 1, "minibatch": 2, "last_epoch": 1, "last_minibatch": 2, **changes}
    )
    (marked,) = mark_planted([seen], [("op", 1)], per_epoch=4)
    assert marked.planted == is_planted


def test_several_drills_of_a_head_are_all_marked(payloads: Any) -> None:
    seen = payloads.sighting(count=2, epoch=1, minibatch=1, last_epoch=2, last_minibatch=1)
    (marked,) = mark_planted([seen], [("op", 0), ("op", 4)], per_epoch=4)
    assert marked.planted

"""The effect of an action on a host's optimizer and on its seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.environment.actions import apply_actions
from esper.growth.hosts.population import STALE_MOMENTS
from esper.leyline.heads import Op, Stage


@pytest.mark.parametrize("op", list(Op))
def test_second_moments_of_a_host_are_stale_once_a_seed_joins_it(
    colony: Callable[..., Any], actions: Callable[..., np.ndarray], op: Op
) -> None:
    hosts = colony(3)
    for host in range(3):
        hosts.germinate(host, 0)
        hosts.germinate(host, 1)
    hosts.live_on()
    slot = 2 if op is Op.GERMINATE else 0
    if op in (Op.SET_ALPHA_TARGET, Op.FOSSILIZE):
        hosts.seeds.stage[1, 0] = Stage.HOLDING
    before = [hosts.host_state(host) for host in range(3)]
    seeds = [hosts.seed_state(1, slot) for slot in (0, 1)]
    assert (before[1][2] > 0).any()

    apply_actions(hosts.population, hosts.seeds, actions(3, op=op, slot=slot), np.array([1]))

    expected = before[1].clone()
    if op is Op.ADVANCE:
        expected[2] *= STALE_MOMENTS
    assert torch.equal(hosts.host_state(1), expected)
    assert torch.equal(hosts.host_state(0), before[0])
    assert torch.equal(hosts.host_state(2), before[2])
    assert all(torch.equal(hosts.seed_state(1, slot), seeds[slot]) for slot in (0, 1))

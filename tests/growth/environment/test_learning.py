"""What hosts can learn: far above chance at once, and the known accuracy after 40 epochs."""

from collections.abc import Callable

import numpy as np
import pytest

from esper.growth.environment.env import GrowthVectorEnv
from esper.leyline.heads import BLUEPRINT_CHOICES, Op

STEPS_OF_40_EPOCHS = 160  # of 16 minibatches of 50, out of 3,200 samples


def accuracy_after(steps: int, hosts: int, task: str, **settings: int) -> float:
    env = GrowthVectorEnv(hosts, task, steps=steps, autoreset_mode="Disabled", **settings)
    env.reset(seed=0)
    for _ in range(steps):
        env.step(np.zeros((hosts, 8), dtype=np.int64))
    return float(env.test_accuracy().mean())


@pytest.mark.parametrize(("task", "least"), [("mnist1d", 0.3), ("digits", 0.75)])
def test_hosts_learn_well_above_chance(task: str, least: float) -> None:
    assert accuracy_after(12, 4, task) > least


def test_growing_convolutions_beats_not_growing(actions: Callable[..., np.ndarray]) -> None:
    hosts, conv = 8, BLUEPRINT_CHOICES.index("conv")
    grown, plain = (GrowthVectorEnv(hosts, "mnist1d", autoreset_mode="Disabled") for _ in range(2))
    for env in (grown, plain):
        env.reset(seed=0)
    plan = {slot: (Op.GERMINATE, slot) for slot in range(3)}
    plan |= {slot + 3: (Op.ADVANCE, slot) for slot in range(3)}
    plan |= {slot + 8: (Op.FOSSILIZE, slot) for slot in range(3)}
    for step in range(24):
        op, slot = plan.get(step, (Op.WAIT, 0))
        grown_info = grown.step(actions(hosts, op=op, slot=slot, blueprint=conv, alpha_target=2))[
            -1
        ]
        plain_info = plain.step(actions(hosts))[-1]
    assert (grown_info["fossilized"] == 3).all()
    assert grown_info["score"].mean() > plain_info["score"].mean() + 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "low", "high"), [(8, 0.74, 0.86), (16, 0.83, 0.93)])
def test_hosts_reach_the_known_accuracy_in_40_epochs(
    channels: int, low: float, high: float
) -> None:
    assert low < accuracy_after(STEPS_OF_40_EPOCHS, 8, "mnist1d", channels=channels) < high

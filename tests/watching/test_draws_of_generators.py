"""A second run draws the numbers that the first drew, from any generator."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from esper.watching.finding.child import forked
from esper.watching.model.generators import GeneratorStates
from esper.watching.watch import Watch

STEPS = 12


class Loop:
    """A training in which a draw below 0.25 makes a batch NaN."""

    def __init__(self, source):
        torch.manual_seed(0)
        self.model = nn.Linear(4, 3)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.rng = np.random.default_rng(6)
        self.source = source

    def train(self):
        random.seed(6)
        np.random.seed(6)
        own_torch = torch.Generator().manual_seed(1)
        own_python = random.Random(6)
        draw = {
            "random": random.random,
            "random.gauss": lambda: abs(random.gauss(0, 1)),
            "np.random": np.random.rand,
            "np.random.randn": lambda: abs(np.random.randn()),
            "variable of torch": lambda: torch.rand((), generator=own_torch).item(),
            "variable of Python": own_python.random,
            "attribute": self.rng.random,
        }[self.source]
        for _ in range(STEPS):
            batch = torch.randn(5, 4)
            batch = batch if draw() > 0.25 else (batch * 0).log()
            draw()  # as much else may be drawn
            loss = self.model(batch).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


@pytest.mark.parametrize("is_apart", [True, False])
@pytest.mark.parametrize(
    "source",
    [
        "random",
        "random.gauss",
        "np.random",
        "np.random.randn",
        "variable of torch",
        "variable of Python",
        "attribute",
    ],
)
def test_a_fault_that_depends_on_a_draw_is_located(source, is_apart, monkeypatch):
    if not is_apart:
        monkeypatch.setattr(forked, "can_fork", lambda _: False)
    loops = [Loop(source), Loop(source)]
    loops[0].train()
    ends = [(random.getstate(), np.random.get_state()[1].tolist(), loops[0].rng.random())]
    with Watch([loops[1].model], [loops[1].optimizer], on_nonfinite="report") as watch:
        loops[1].train()
    ends.append((random.getstate(), np.random.get_state()[1].tolist(), loops[1].rng.random()))

    assert not watch.failures, watch.last_failure
    first = watch.troubles[0]
    assert first.minibatch > 1
    assert first.explanation.origin.operation.base == "log"
    assert ends[0] == ends[1]
    weights = [one.model.weight.detach().nan_to_num(7.0) for one in loops]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        lambda: random.gauss(0, 1),
        lambda: np.random.rand(312).sum(),  # as many as a Mersenne Twister has at once
        np.random.randn,
        lambda: np.random.randn(3).sum(),
        lambda: random.sample(range(1000), 313)[-1],
    ],
)
def test_the_states_of_global_generators_are_exact(draw):
    states = GeneratorStates()
    for _ in range(20):
        states.step_over()
        draw()
        states.step_over()
        drawn = draw()
        draw()
        states.of_minibatch()[0].restore()
        assert draw() == drawn

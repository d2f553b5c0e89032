"""A repeated minibatch draws the numbers of the first, also after steps that drew nothing."""

import pytest
import torch
from torch import nn

from esper.watching.model.random_states import RandomStates
from esper.watching.watch import Watch

ROWS = 1_000_000


def train(table, *, steps, first_draw, acts_each):
    """Train a model on random rows of a table; return the watch, and the row of the last step."""
    torch.manual_seed(0)
    model = nn.Linear(1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    row = 0
    with Watch([model], [optimizer], {"steer": 2}) as watch:
        for step in range(steps):
            if acts_each and step % acts_each == 0:
                with torch.no_grad():
                    torch.bernoulli(model(torch.ones(3, 1)).sigmoid())
            if step >= first_draw:
                row = int(torch.randint(1, ROWS, ()))
            loss = (model(torch.ones(4, 1)) * table[row].log()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return watch, row


def origin_of(*, first_draw, fault, acts_each=0):
    """Return what made a loss NaN. It is only found by drawing the one bad row of a table again.

    Args:
        first_draw: number of the first step that draws its row; those before take row 0.
        fault: number of the step that draws the bad row.
        acts_each: steps from one random action to the next; 0 for none.
    """
    how = {"steps": fault + 1, "first_draw": first_draw, "acts_each": acts_each}
    table = torch.ones(ROWS, 1)
    _, row = train(table, **how)
    table[row] = -1.0
    watch, _ = train(table, **how)
    (trouble,) = watch.troubles
    return trouble.explanation.origin


@pytest.mark.parametrize("fault", [0, 3, 100])
def test_a_loop_that_draws_in_each_step(fault):
    assert origin_of(first_draw=0, fault=fault).operation.name == "aten.log.default"


@pytest.mark.parametrize("fault", [64, 71, 72])
def test_the_first_draw_after_many_steps_without(fault):
    assert origin_of(first_draw=fault, fault=fault).operation.name == "aten.log.default"


def test_a_loop_that_begins_to_draw():
    assert origin_of(first_draw=64, fault=90).operation.name == "aten.log.default"


def test_the_first_draw_after_acting():
    assert origin_of(first_draw=80, fault=80, acts_each=20).operation.name == "aten.log.default"


def test_states_are_not_copied_while_nothing_is_drawn():
    states = RandomStates()

    def copies_in(steps, *, draws):
        number = 0
        for _ in range(steps):
            (before, *_) = states.of_minibatch()
            if draws:
                torch.rand(1)
            states.step_over()
            number += states.of_minibatch()[0] is not before
        return number

    assert copies_in(40, draws=True) == 40
    copies_in(40, draws=False)
    assert copies_in(80, draws=False) == 10
    copies_in(8, draws=True)
    assert copies_in(8, draws=True) == 8

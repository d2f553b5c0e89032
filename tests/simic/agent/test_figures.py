"""The figures of an update: every one that is declared is measured."""

import math

import pytest
import torch

from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import HEAD_NAMES
from esper.simic.agent.figures import state_figures


def test_every_per_head_figure_is_measured(make_agent, make_rollout):
    agent = make_agent()
    rollout = make_rollout(agent)
    rollout.active[:] = True

    figures = agent.update(rollout).figures

    for figure in HEAD_FIGURES:
        values = figure.of(figures)
        assert set(values) == set(HEAD_NAMES), f"{figure.field} is not measured by `summarise`"
        assert all(map(math.isfinite, values.values())), figure.field


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["parameters", "exp_avg", "exp_avg_sq", "step"])
def test_figures_of_the_state_are_not_finite_if_one_value_is_not(name: str, bad: float) -> None:
    state = {key: torch.zeros(1000) for key in ("parameters", "exp_avg", "exp_avg_sq")}
    state["step"] = torch.zeros(())
    scale = torch.ones(())
    assert state_figures(state["parameters"], state, scale, None).isfinite().all()
    state[name].view(-1)[-1] = bad  # every factor of it is 0
    assert not state_figures(state["parameters"], state, scale, None).isfinite().all()

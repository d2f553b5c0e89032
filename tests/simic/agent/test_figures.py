"""The figures of an update: every one that is declared is measured."""

import math

from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import HEAD_NAMES


def test_every_per_head_figure_is_measured(make_agent, make_rollout):
    agent = make_agent()
    rollout = make_rollout(agent)
    rollout.active[:] = True

    figures = agent.update(rollout).figures

    for figure in HEAD_FIGURES:
        values = figure.of(figures)
        assert set(values) == set(HEAD_NAMES), f"{figure.field} is not measured by `summarise`"
        assert all(map(math.isfinite, values.values())), figure.field

"""The derivatives of a slot against numerical derivatives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from esper.growth.blueprints.table import BLUEPRINTS
from esper.growth.hosts import seeds as life
from esper.growth.hosts.plan import SlotWork, make_plan
from esper.growth.hosts.slot import blend_seeds
from esper.growth.tasks.loading import Task
from esper.leyline.heads import BLUEPRINT_CHOICES, STYLE_CHOICES


def slot_of(
    ours: Any, slot: int
) -> tuple[SlotWork, Callable[..., torch.Tensor], list[torch.Tensor]]:
    """Return the work of a slot on the main rows, the slot as a function, and random weights."""
    plan = make_plan(ours.population, ours.seeds)
    work = plan.slots[slot].main
    assert work is not None
    groups = [plan.groups[batch.group] for batch in work.batches]
    generator = torch.Generator().manual_seed(1)
    rows = [
        torch.randn(len(g.hosts), g.layout.size, generator=generator, dtype=torch.float64)
        for g in groups
    ]

    def run(stream: torch.Tensor, *seeds: torch.Tensor) -> torch.Tensor:
        blueprints = [BLUEPRINTS[g.blueprint] for g in groups]
        return blend_seeds(stream, work, blueprints, [g.layout for g in groups], list(seeds))

    return work, run, rows


def blend_in(ours: Any, slot: int) -> None:
    """Let every seed of a slot become part of its host."""
    life.begin_slice(ours.seeds)
    for host in np.flatnonzero(ours.seeds.blueprint[:, slot] >= 0).tolist():
        life.advance(ours.seeds, host, slot)
    life.begin_slice(ours.seeds)


@pytest.mark.parametrize("blueprint", range(len(BLUEPRINTS)), ids=BLUEPRINT_CHOICES)
@pytest.mark.parametrize("shape", [(1, 16), (2, 6, 7), (6,)], ids=["1-D", "2-D", "none"])
def test_gradients_of_every_blueprint_and_style_are_right(
    colony: Callable[..., Any],
    small_task: Callable[..., Task],
    blueprint: int,
    shape: tuple[int, ...],
) -> None:
    styles = len(STYLE_CHOICES)
    ours = colony(hosts=styles, task=small_task(shape))
    for host in range(styles):
        ours.germinate(host, 1, blueprint=blueprint, style=host)
    blend_in(ours, 1)
    _, run, rows = slot_of(ours, 1)
    positions = (3,) * (len(shape) - 1)
    stream = torch.randn(styles, 8, *positions, 2, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (stream, *rows)]
    assert gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("slot", [0, 1])
def test_rows_without_seeds_pass_unchanged(colony: Callable[..., Any], slot: int) -> None:
    ours = colony(hosts=10)
    for host in range(8):
        ours.germinate(host, slot, blueprint=(2, 2, 2, 0)[host % 4], style=host % 3)
    blend_in(ours, slot)
    work, run, rows = slot_of(ours, slot)
    assert work.leading == (slot == 0)
    stream = torch.randn(10, 8, 2, 2, dtype=torch.float64)
    outside = sorted(set(range(10)) - set(work.rows.tolist()))
    assert len(outside) == 2
    assert run(stream, *rows)[outside].equal(stream[outside])
    inputs = [tensor.requires_grad_() for tensor in (stream, *rows)]
    assert gradcheck(run, inputs, fast_mode=True)

"""Blueprints and styles, one by one, against ordinary modules."""

import itertools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.blueprints.table import BLUEPRINTS, parameter_count, seed_layout
from esper.growth.hosts import seeds as life
from esper.growth.hosts.population import added_parameters
from esper.growth.kernel.blending import MIXING_OF_STYLE, Mixing, Style, coefficient, mix
from esper.growth.kernel.layers import layer_norm
from esper.leyline.heads import BLUEPRINT_CHOICES, STYLE_CHOICES

EACH = pytest.mark.parametrize("number", range(len(BLUEPRINTS)), ids=BLUEPRINT_CHOICES)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@EACH
@pytest.mark.parametrize("positions", [(7,), (3, 4)])
@pytest.mark.parametrize("channels", [4, 8])
def test_forward_equals_the_ordinary_module(
    ordinary: ModuleType, number: int, positions: tuple[int, ...], channels: int
) -> None:
    blueprint, axes = BLUEPRINTS[number], len(positions)
    layout = seed_layout(blueprint, channels, axes)
    rows = random(3, layout.size)
    features = random(3, channels, *positions, 5, seed=1)
    *tensors, _, _ = layout.split(rows)
    ours = blueprint.change(features, tuple(tensors))
    assert ours.shape == features.shape
    for row in range(3):
        seed = ordinary.Seed(number, 0, channels, axes).double()
        ordinary.write_parameters(seed, rows[row])
        theirs = seed.module(features[row].movedim(-1, 0)).movedim(0, -1)
        torch.testing.assert_close(ours[row], theirs, rtol=1e-10, atol=1e-10)


@EACH
@pytest.mark.parametrize(("channels", "axes"), itertools.product([3, 4, 8, 16], [1, 2]))
def test_parameter_counts_are_those_of_the_real_tensors(
    number: int, channels: int, axes: int
) -> None:
    blueprint = BLUEPRINTS[number]
    layout = seed_layout(blueprint, channels, axes)
    assert len({tensor.name for tensor in layout.tensors}) == len(layout.tensors)
    tensors = layout.split(torch.zeros(1, layout.size))
    real = [tensor.numel() for tensor in tensors]
    assert parameter_count(blueprint, channels, axes, gated=True) == sum(real)
    assert parameter_count(blueprint, channels, axes, gated=False) == sum(real[:-2])
    assert real[-2:] == [channels, channels]


def test_costs_are_as_documented_and_clearly_different() -> None:
    costs = {b.name: parameter_count(b, 8, 1, gated=False) for b in BLUEPRINTS}
    assert costs == {
        "norm": 16,
        "depthwise": 32,
        "low_rank": 40,
        "pointwise": 72,
        "bottleneck": 128,
        "attention": 136,
        "conv": 200,
        "mlp": 552,
    }


@EACH
def test_a_new_seed_changes_nothing_and_can_learn(number: int) -> None:
    blueprint = BLUEPRINTS[number]
    layout = seed_layout(blueprint, 8, 1)
    rows = torch.from_numpy(layout.draw(np.random.default_rng(0))[None]).requires_grad_()
    *tensors, _, _ = layout.split(rows)
    change = blueprint.change(random(1, 8, 7, 5), tuple(tensors))
    assert change.eq(0).all()
    (gradient,) = torch.autograd.grad((change * random(1, 8, 7, 5, seed=1)).sum(), rows)
    weights = [each for each in layout.tensors[:-2] if each.name.endswith(("weight", "scale"))]
    by_name = dict(zip((each.name for each in layout.tensors), layout.split(gradient), strict=True))
    assert any(by_name[each.name].ne(0).any() for each in weights), "no weight can learn"


def blend(style: Style, alpha: float, change: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    amount = coefficient(np.full((len(features), 1, 1, 1), style), alpha)
    weight, bias = random(2, len(features), features.shape[1], seed=9)
    gate = torch.cat([weight, bias], dim=1)
    mixing = Mixing(int(MIXING_OF_STYLE[style]))
    normal = layer_norm(features)
    return mix(mixing, features, change, normal, torch.from_numpy(amount), gate)


@pytest.mark.parametrize("style", Style, ids=STYLE_CHOICES)
def test_every_style_is_exactly_the_identity_at_alpha_zero(style: Style) -> None:
    features, change = random(2, 4, 5, 3).relu(), 100 * random(2, 4, 5, 3, seed=1)
    assert blend(style, 0.0, change, features).equal(features)
    assert not blend(style, 0.5, change, features).equal(features)


@pytest.mark.parametrize("style", Style, ids=STYLE_CHOICES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_styles_equal_ordinary_arithmetic(ordinary: ModuleType, style: Style, alpha: float) -> None:
    features, change = random(1, 4, 5, 3), random(1, 4, 5, 3, seed=1)
    seed = ordinary.Seed(BLUEPRINT_CHOICES.index("conv"), style, 4, 1).double()
    gates = random(2, 1, 4, seed=9)
    ordinary.write_parameters(seed.gate, gates.flatten())
    seed.module = torch.nn.Identity()
    seed.module.forward = lambda _: change[0].movedim(-1, 0)
    theirs = seed(features[0].movedim(-1, 0), alpha).movedim(0, -1)
    torch.testing.assert_close(blend(style, alpha, change, features)[0], theirs)


def test_multiplying_at_most_triples_a_feature_and_at_half_of_it_doubles() -> None:
    features, change = random(2, 4, 5, 3).relu(), 100 * random(2, 4, 5, 3, seed=1)
    for alpha, least, most in ((0.5, 0.0, 2.0), (1.0, -1.0, 3.0)):
        blended = blend(Style.LINEAR_MULTIPLY, alpha, change, features)
        assert (blended >= least * features).all()
        assert (blended <= most * features).all()


def test_sigmoid_of_alpha_runs_from_exactly_zero_to_exactly_one() -> None:
    alphas = np.linspace(0, 1, 21)
    amounts = coefficient(np.full(21, Style.SIGMOID_ADD), alphas)
    assert amounts[0] == 0.0
    assert amounts[-1] == 1.0
    assert (np.diff(amounts) > 0).all()


def test_a_host_pays_for_the_seeds_it_has_and_for_gates_only_where_gated(
    colony: Callable[..., Any],
) -> None:
    ours = colony(hosts=3)
    conv, mlp = BLUEPRINT_CHOICES.index("conv"), BLUEPRINT_CHOICES.index("mlp")
    ours.germinate(0, 0, blueprint=conv, style=Style.GATED)
    ours.germinate(0, 2, blueprint=mlp, style=Style.LINEAR_ADD)
    ours.germinate(2, 1, blueprint=conv, style=Style.SIGMOID_ADD)
    everything = np.ones((3, 3), dtype=bool)
    counted = added_parameters(ours.population, ours.seeds, everything)
    assert counted.tolist() == [200 + 16 + 552, 0, 200]
    life.prune(ours.seeds, 2, 1, length=0, curve=0)
    ours.live_on()
    assert added_parameters(ours.population, ours.seeds, everything).tolist() == [768, 0, 0]

"""Multiply-adds are what torch's own counter finds in ordinary modules that do the same."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper.growth.blueprints.table import BLUEPRINTS
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.hosts import seeds as life
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.seeds import Seeds
from esper.growth.hosts.training_cost import (
    host_multiply_adds,
    seed_multiply_adds,
    training_multiply_adds,
)
from esper.growth.kernel.blending import Style
from esper.leyline.heads import BLUEPRINT_CHOICES, Op, Stage

SAMPLES = 6
# A normaliser is no matrix product or convolution, so torch does not count it, and it takes the
# backward pass of a convolution in groups for that of a full one: both are counted by hand below.
COUNTED = [
    blueprint.name
    for blueprint in BLUEPRINTS
    if blueprint.name != "norm" and "groups=" not in blueprint.text(8, 1).source
]


def one_seed(slot: int, blueprint: int, stage: Stage, style: int = Style.LINEAR_ADD) -> Seeds:
    seeds = life.empty_seeds(1)
    at = 0, slot
    seeds.stage[at], seeds.blueprint[at], seeds.style[at] = stage, blueprint, style
    seeds.alpha[at] = 0.0 if stage is Stage.TRAINING else 1.0
    return seeds


def counted(work: Callable[[], object]) -> float:
    """Return the multiply-adds of `work` for each sample, as torch counts them."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2 / SAMPLES


def network(ordinary: ModuleType, shape: HostShape, seeds: dict[int, str] | None = None) -> Any:
    host = ordinary.Host(shape.input_shape, shape.classes, shape.channels)
    made = ordinary.Network(host)
    for slot, name in (seeds or {}).items():
        kind = BLUEPRINT_CHOICES.index(name)
        seed = ordinary.Seed(kind, 0, shape.channels, len(shape.input_shape) - 1)
        made.slots[slot] = ordinary.Slot(seed, alpha=1.0, training=False)
    return made


def train(made: Any, shape: HostShape) -> Callable[[], object]:
    inputs, labels = torch.randn(SAMPLES, *shape.input_shape), torch.zeros(SAMPLES).long()
    return lambda: F.cross_entropy(made.forward(inputs), labels).backward()


SHAPES = [HostShape((1, 40), 10, 8), HostShape((2, 9, 8), 5, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=["conv1d", "conv2d"])
def test_an_empty_host_costs_what_torch_counts(ordinary: ModuleType, shape: HostShape) -> None:
    made = network(ordinary, shape)
    inputs = torch.randn(SAMPLES, *shape.input_shape)
    with torch.no_grad():
        assert counted(lambda: made.forward(inputs)) == sum(host_multiply_adds(shape))
    (ours,) = training_multiply_adds(shape, life.empty_seeds(1))
    assert counted(train(made, shape)) == ours


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("shape", SHAPES, ids=["conv1d", "conv2d"])
def test_a_seed_in_its_host_costs_what_torch_counts(
    ordinary: ModuleType, shape: HostShape, name: str
) -> None:
    for slot in range(3):
        seeds = one_seed(slot, BLUEPRINT_CHOICES.index(name), Stage.FOSSILIZED)
        (ours,) = training_multiply_adds(shape, seeds)
        assert counted(train(network(ordinary, shape, {slot: name}), shape)) == ours


def test_a_shadow_costs_what_torch_counts_and_one_unused_gradient(
    ordinary: ModuleType,
) -> None:
    shape = SHAPES[0]
    made = network(ordinary, shape, {0: "conv", 2: "pointwise"})
    features = torch.relu(made.host.blocks[0](torch.randn(SAMPLES, *shape.input_shape))).detach()
    labels = torch.zeros(SAMPLES).long()

    def shadow() -> None:
        seen = made.slots[0].seed(features, 1.0)
        seen = torch.relu(made.host.blocks[2](torch.relu(made.host.blocks[1](seen))))
        logits = made.host.classify(made.slots[2].seed(seen, 1.0))
        parameters = list(made.slots[0].seed.module.parameters())
        torch.autograd.grad(F.cross_entropy(logits, labels), parameters)

    seeds = one_seed(2, BLUEPRINT_CHOICES.index("pointwise"), Stage.HOLDING)
    (without,) = training_multiply_adds(shape, seeds)
    other = one_seed(0, BLUEPRINT_CHOICES.index("conv"), Stage.TRAINING)
    for name in ("stage", "blueprint", "style"):
        getattr(seeds, name)[0, 0] = getattr(other, name)[0, 0]
    (with_shadow,) = training_multiply_adds(shape, seeds)
    conv = 8 * 8 * 3 * shape.blocks[0].positions[0]
    assert with_shadow - without == counted(shadow) + conv


def test_a_depthwise_convolution_costs_its_kernel_for_each_feature() -> None:
    for shape, kernel in zip(SHAPES, (3, 9), strict=True):
        table = seed_multiply_adds(shape)[:, BLUEPRINT_CHOICES.index("depthwise"), 0]
        features = [shape.channels * np.prod(block.positions) for block in shape.blocks]
        assert table.tolist() == [kernel * count for count in features]


def test_normaliser_and_gate_cost_one_product_for_each_feature() -> None:
    shape = SHAPES[0]
    table = seed_multiply_adds(shape)
    for slot, block in enumerate(shape.blocks):
        features = 8 * block.positions[0]
        assert table[slot, BLUEPRINT_CHOICES.index("norm"), 0] == features
        assert (table[slot, :, 1] - table[slot, :, 0] == features).all()


def test_a_transformer_is_counted_by_hand() -> None:
    shape = HostShape((12,), 7, 8, symbols=7)
    block = (3 * 8 * 8 + 8 * 8 + 2 * 16 * 8) * 12 + 2 * 8 * 12 * 12
    assert host_multiply_adds(shape) == [block, block, block, 7 * 8]
    (ours,) = training_multiply_adds(shape, life.empty_seeds(1))
    assert ours == 3 * (3 * block + 56)


def test_the_environment_adds_up_what_its_hosts_spend(
    small_task: Callable[..., Any], actions: Callable[..., np.ndarray]
) -> None:
    env = GrowthVectorEnv(2, small_task(), steps=3, batch=8, batches=2)
    _, info = env.reset(seed=0)
    assert info["multiply_adds"].tolist() == [0, 0]
    deeds = actions(2)
    deeds[1] = actions(1, op=Op.GERMINATE, blueprint=3)[0]
    info = env.step(deeds)[-1]
    empty, germinated = info["multiply_adds"]
    (alone,) = training_multiply_adds(env.host_shape, life.empty_seeds(1))
    (training,) = training_multiply_adds(env.host_shape, one_seed(0, 3, Stage.TRAINING))
    assert (empty, germinated) == (alone * 16, training * 16)
    info = env.step(actions(2))[-1]
    assert info["multiply_adds"].tolist() == [alone * 32, training * 32]
    info = env.step(actions(2))[-1]
    assert info["final_info"]["multiply_adds"][0] == alone * 48
    assert info["multiply_adds"].tolist() == [0, 0]

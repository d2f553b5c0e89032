"""Fixed networks in lockstep are ordinary torch networks, trained one by one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.minibatches import draw, new_order, restart
from esper.growth.hosts.randomness import Stream, episode_rng_seed, generator
from esper.growth.static_networks import StaticShape, StaticTraining, static_shapes, train_static
from esper.growth.tasks.task import Task


class Ordinary(nn.Module):
    """A fixed network as anyone would write it."""

    def __init__(self, shape: StaticShape) -> None:
        super().__init__()
        conv = nn.Conv1d if len(shape.input_shape) == 2 else nn.Conv2d
        self.shape, self.layers = shape, nn.ModuleList()
        for block in shape.blocks:
            geometry = (block.kernel, block.stride, block.padding)
            self.layers.append(conv(block.inputs, block.outputs, *geometry))
            if shape.normalised:
                self.layers.append(nn.GroupNorm(1, block.outputs))
        inputs = shape.channels * (1 if shape.pooled else int(np.prod(block.positions)))
        self.classifier = nn.Linear(inputs, shape.classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = inputs
        for layer in self.layers:
            normed = isinstance(layer, nn.GroupNorm)
            features = layer(features)
            if normed or not self.shape.normalised:
                features = F.relu(features)
        features = features.flatten(2)
        features = features.mean(2) if self.shape.pooled else features.flatten(1)
        return self.classifier(features)

    def write(self, values: np.ndarray) -> None:
        """Set all parameters; ours keeps a scale as its distance from 1."""
        vector = torch.from_numpy(values)
        with torch.no_grad():
            for module in [*self.layers, self.classifier]:
                for name, parameter in module.named_parameters():
                    piece, vector = vector[: parameter.numel()], vector[parameter.numel() :]
                    is_scale = isinstance(module, nn.GroupNorm) and name == "weight"
                    parameter.copy_(piece.view_as(parameter) + is_scale)


@pytest.mark.parametrize("input_shape", [(1, 16), (2, 6, 7)])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("rates", [None, [0.05, 0.02, 0.001]])
def test_lockstep_is_a_loop_of_ordinary_networks(
    small_task: Callable[..., Task],
    input_shape: tuple[int, ...],
    normalised: bool,
    pooled: bool,
    rates: list[float] | None,
) -> None:
    task = small_task(input_shape)
    env = GrowthVectorEnv(1, task, steps=3, batch=8, batches=4)
    shape = StaticShape(input_shape, task.classes, 5, 4, normalised, pooled)
    seeds = [11, 12, 13]
    ours = train_static(env, shape, seeds, rates)
    assert ours.parameters.tolist() == [shape.layout.size] * 3
    for number, seed in enumerate(seeds):
        rng_seeds = np.array([episode_rng_seed(seed, 0)])
        theirs = Ordinary(shape).double()
        theirs.write(shape.layout.draw(generator(int(rng_seeds[0]), Stream.HOST)))
        optimizer = torch.optim.Adam(theirs.parameters(), lr=env.optimizer.learning_rate)
        order = new_order(1, len(task.train), 8, 4)
        restart(order, np.arange(1), rng_seeds)
        for step in range(3):
            if rates is not None:
                optimizer.param_groups[0]["lr"] = rates[step]
            for index in torch.from_numpy(draw(order, 32)[0]).split(8):
                optimizer.zero_grad()
                logits = theirs(task.train.inputs[index])
                F.cross_entropy(logits, task.train.labels[index]).backward()
                optimizer.step()
        for name, part in (("validation", task.validation), ("test", task.test)):
            with torch.no_grad():
                right = (theirs(part.inputs).argmax(1) == part.labels).double().mean().item()
            assert getattr(ours, f"{name}_accuracy")[number] == pytest.approx(right)


def test_training_in_parts_is_training_at_once(small_task: Callable[..., Task]) -> None:
    env = GrowthVectorEnv(1, small_task(), steps=5, batch=8, batches=4)
    (shape, *_) = static_shapes(env.host_shape, 300)
    whole = train_static(env, shape, [1, 2])
    training = StaticTraining(env, shape, [1, 2])
    spent = []
    for steps in (1, 3, 1):
        training.advance(steps)
        spent.append(training.multiply_adds)
    a_step = shape.training_multiply_adds * 8 * 4
    assert spent == [a_step, 4 * a_step, 5 * a_step]
    for name, values in vars(training.trained()).items():
        np.testing.assert_array_equal(values, getattr(whole, name))


def test_minibatches_are_those_of_a_host_with_the_same_random_seed(
    small_task: Callable[..., Task],
) -> None:
    # Depth 3, plain and mean-pooled is a host: the results must be equal bit for bit.
    env = GrowthVectorEnv(2, small_task(), steps=4, batch=8, batches=2, autoreset_mode="Disabled")
    env.reset(seed=[5, 6])
    for _ in range(4):
        env.step(np.zeros((2, 8), dtype=np.int64))
    like = env.host_shape
    same = StaticShape(like.input_shape, like.classes, like.channels, depth=3, pooled=True)
    trained = train_static(env, same, [5, 6])
    np.testing.assert_array_equal(trained.test_accuracy, env.test_accuracy())


@given(parameters=st.integers(60, 6000))
def test_no_other_width_comes_nearer_to_the_size_asked_for(parameters: int) -> None:
    for shape in static_shapes(HostShape((1, 40), 10, 8), parameters):
        miss = abs(shape.layout.size - parameters)
        for channels in (shape.channels - 1, shape.channels + 1):
            if channels > 0:
                other = StaticShape(
                    (1, 40), 10, channels, shape.depth, shape.normalised, shape.pooled
                )
                assert abs(other.layout.size - parameters) >= miss


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        (HostShape((1, 40), 10, 8), 16),
        (HostShape((3, 12, 12), 10, 8), 16),
        (HostShape((20,), 3, 8), 8),
        (HostShape((12,), 9, 8, symbols=9), 4),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_every_kind_of_host_has_fixed_rivals(shape: HostShape, kinds: int) -> None:
    shapes = static_shapes(shape, 3000)
    assert len(shapes) == len({each.name for each in shapes}) == kinds
    assert all(abs(each.layout.size - 3000) < 600 for each in shapes)


def test_a_plain_network_costs_what_a_host_of_its_shape_costs() -> None:
    from esper.growth.hosts.seeds import empty_seeds
    from esper.growth.hosts.training_cost import training_multiply_adds

    for symbols, inputs in ((0, (1, 40)), (0, (2, 9, 9)), (0, (12,)), (9, (12,))):
        host = HostShape(inputs, 9, 8, symbols)
        same = StaticShape(inputs, 9, 8, 3, pooled=not symbols, symbols=symbols)
        (ours,) = training_multiply_adds(host, empty_seeds(1))
        assert same.training_multiply_adds == ours
        assert same.layout.size == host.layout.size

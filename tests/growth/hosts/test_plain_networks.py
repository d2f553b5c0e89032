"""A plain PyTorch network: its size, its cost as torch counts it, and that it learns."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.hosts.host import HostShape
from esper.growth.plain_networks import PlainShape, plain_shape, train_plain
from esper.growth.tasks.task import Task

HOSTS = [
    HostShape((1, 40), 10, 8),
    HostShape((2, 9, 8), 5, 8),
    HostShape((20,), 3, 8),
    HostShape((12,), 9, 8, symbols=9),
]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.kind)
def test_it_costs_what_torch_counts(host: HostShape) -> None:
    shape = plain_shape(host, 900)
    network = shape.module()
    if host.symbols:
        inputs = torch.randint(host.symbols, (6, *host.input_shape))
    else:
        inputs = torch.randn(6, *host.input_shape)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(inputs), torch.zeros(6).long()).backward()
    assert shape.training_multiply_adds == counter.get_total_flops() / 2 / 6


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.kind)
def test_no_other_width_comes_nearer_to_the_size_asked_for(host: HostShape) -> None:
    shape = plain_shape(host, 1000)
    for channels in (shape.channels - 1, shape.channels + 1):
        other = PlainShape(host.input_shape, host.classes, channels, host.symbols)
        assert abs(other.parameters - 1000) >= abs(shape.parameters - 1000)


@pytest.mark.parametrize("inputs", [(1, 16), (2, 6, 7), (12,), (9,)])
def test_it_learns_and_depends_on_its_own_random_seed_alone(
    small_task: Callable[..., Task], inputs: tuple[int, ...]
) -> None:
    task = small_task(inputs, symbols=5 if inputs == (9,) else 0)
    env = GrowthVectorEnv(1, task, steps=6, batch=8, batches=8)
    shape = plain_shape(env.host_shape, 400)
    torch.manual_seed(1)
    trained = train_plain(env, shape, [11, 12], 0.02)
    assert trained.test_accuracy.shape == (2,)
    if not task.symbols:  # a sum of symbols takes more training than this
        assert trained.test_accuracy.mean() > task.test.largest_class + 0.2
    samples = 6 * 8 * 8
    assert trained.multiply_adds.tolist() == [shape.training_multiply_adds * samples] * 2
    assert trained.parameters.tolist() == [shape.parameters] * 2
    state = torch.get_rng_state()
    (alone,) = train_plain(env, shape, [12], 0.02).test_accuracy
    assert torch.equal(torch.get_rng_state(), state), "torch's own random numbers are left alone"
    assert alone == trained.test_accuracy[1]
    assert np.isfinite(trained.validation_accuracy).all()

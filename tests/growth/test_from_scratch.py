"""What growing ended with, trained from its first step."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.from_scratch import (
    Architecture,
    architecture_of,
    bare_hosts,
    train_from_scratch,
)
from esper.growth.hosts.minibatches import draw, new_order, restart
from esper.growth.hosts.population import new_population, plant_hosts, plant_seed
from esper.growth.hosts.randomness import episode_rng_seed
from esper.growth.hosts.seeds import EMPTY
from esper.growth.tasks.task import Task
from esper.leyline.heads import Stage

STEPS = 4


def make_env(task: Task, hosts: int = 3, steps: int = STEPS) -> GrowthVectorEnv:
    return GrowthVectorEnv(hosts, task, steps, batch=8, batches=2, autoreset_mode="Disabled")


@pytest.mark.parametrize("steps", [[4, 4, 4], [1, 4, 2]])
def test_where_nothing_was_grown_it_is_the_bare_host(
    small_task: Callable[..., Task], steps: list[int]
) -> None:
    task, seeds = small_task(), [3, 4, 5]
    trained = train_from_scratch(make_env(task), bare_hosts(3), seeds, np.array(steps))
    for host, (seed, length) in enumerate(zip(seeds, steps, strict=True)):
        env = make_env(task, hosts=1, steps=length)
        env.reset(seed=[seed])
        for _ in range(length):
            info = env.step(np.zeros((1, 8), dtype=np.int64))[-1]
        assert trained.test_accuracy[host] == env.test_accuracy()[0]
        assert trained.validation_accuracy[host] == info["final_accuracy"][0]
        assert trained.parameters[host] == env.host_parameters
        assert trained.multiply_adds[host] == info["multiply_adds"][0]


def test_seeds_are_there_from_the_first_step(
    small_task: Callable[..., Task], ordinary: ModuleType
) -> None:
    """Against an ordinary network with the same seeds, first values and minibatches."""
    task, seed = small_task(), 9
    env = make_env(task, hosts=1)
    grown = Architecture(
        np.array([[3, EMPTY, 5]]), np.array([[0, EMPTY, 3]]), np.array([[1.0, 0.0, 0.7]])
    )
    trained = train_from_scratch(env, grown, [seed], np.array([STEPS]))

    rng_seeds = np.array([episode_rng_seed(seed, 0)])
    population = new_population(
        1, 3, env.host_shape, device=torch.device("cpu"), dtype=torch.float64
    )
    plant_hosts(population, np.arange(1), rng_seeds)
    module = ordinary.Host(task.input_shape, task.classes, task.channels).double()
    row = population.state[0, population.host_columns(np.arange(1))[0]]
    ordinary.write_parameters(module, row)
    network = ordinary.Network(module)
    for slot, blueprint, style, alpha in ((0, 3, 0, 1.0), (2, 5, 3, 0.7)):
        plant_seed(population, 0, slot, blueprint, 1)
        columns = population.seed_columns(np.arange(1), slot, blueprint)[0]
        part = ordinary.Seed(blueprint, style, task.channels, 1).double()
        ordinary.write_parameters(part, population.state[0, columns])
        network.slots[slot] = ordinary.Slot(part, alpha, training=False)
    network.adapt()
    order = new_order(1, len(task.train), 8, 2)
    restart(order, np.arange(1), rng_seeds)
    for _ in range(STEPS):
        for index in torch.from_numpy(draw(order, 16)[0]).split(8):
            network.train_step(task.train.inputs[index], task.train.labels[index])
    for name, part in (("validation", task.validation), ("test", task.test)):
        accuracy = network.evaluate(part.inputs, part.labels)[1]
        assert getattr(trained, f"{name}_accuracy")[0] == pytest.approx(accuracy)
    assert trained.parameters[0] == sum(
        parameter.numel()
        for part in (module, network.slots[0].seed.module, network.slots[2].seed)
        for parameter in part.parameters()
    )


def test_only_what_is_fossilized_belongs_to_an_architecture() -> None:
    stage = np.array([[Stage.FOSSILIZED, Stage.HOLDING, Stage.DORMANT]])
    grown = architecture_of(
        stage, np.array([[4, 5, EMPTY]]), np.array([[1, 2, EMPTY]]), np.array([[0.5, 1.0, 0.0]])
    )
    assert grown.blueprint.tolist() == [[4, EMPTY, EMPTY]]
    assert grown.style.tolist() == [[1, EMPTY, EMPTY]]
    assert grown.alpha.tolist() == [[0.5, 0.0, 0.0]]


def test_learning_rates_of_slices_are_those_of_an_ordinary_network(
    small_task: Callable[..., Task], ordinary: ModuleType
) -> None:
    task, seed, rates = small_task(), 9, [0.05, 0.01, 0.002]
    env = make_env(task, hosts=1)
    trained = train_from_scratch(env, bare_hosts(1), [seed], np.array([3]), learning_rates=rates)

    rng_seeds = np.array([episode_rng_seed(seed, 0)])
    population = new_population(
        1, 3, env.host_shape, device=torch.device("cpu"), dtype=torch.float64
    )
    plant_hosts(population, np.arange(1), rng_seeds)
    module = ordinary.Host(task.input_shape, task.classes, task.channels).double()
    ordinary.write_parameters(module, population.state[0, population.host_columns(np.arange(1))[0]])
    optimizer = torch.optim.Adam(module.parameters())
    order = new_order(1, len(task.train), 8, 2)
    restart(order, np.arange(1), rng_seeds)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        for index in torch.from_numpy(draw(order, 16)[0]).split(8):
            optimizer.zero_grad()
            logits = ordinary.Network(module).forward(task.train.inputs[index])
            F.cross_entropy(logits, task.train.labels[index]).backward()
            optimizer.step()
    with torch.no_grad():
        logits = ordinary.Network(module).forward(task.test.inputs)
    right = (logits.argmax(1) == task.test.labels).double().mean().item()
    assert trained.test_accuracy[0] == pytest.approx(right)

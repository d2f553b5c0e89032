"""A host that is not finite is named with its cause, and changes no other one."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from esper.growth.environment.divided import LEAST_HOSTS, DividedHosts
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.hosts import lockstep
from esper.growth.hosts.host_faults import HostFault
from esper.growth.tasks.loading import Task
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_SIZES, Op

STEPS = 5
ROWS = {"parameters": 0, "exp_avg": 1, "exp_avg_sq": 2}


@pytest.fixture
def settings(small_task: Callable[..., Task]) -> dict[str, Any]:
    """Of a small environment with short episodes."""
    task = small_task(dtype=torch.float32)
    return {"task": task, "steps": STEPS, "batch": 8, "batches": 3}


@pytest.fixture
def make(settings: dict[str, Any]) -> Iterator[Callable[..., DividedHosts]]:
    """Makes hosts that are closed after the test."""
    made: list[DividedHosts] = []

    def hosts(count: int = 3, processes: int = 1) -> DividedHosts:
        made.append(DividedHosts(count, processes, **settings))
        return made[-1]

    yield hosts
    for each in made:
        each.close()


def poison(
    env: GrowthVectorEnv, first: int, host: int, tensor: str, row: str, value: float
) -> None:
    """Write a value into one tensor of a host, if this environment holds it."""
    population = env._cohort.population
    if not 0 <= host - first < population.hosts:
        return
    if tensor == "step":
        population.host_clock[host - first] = int(value)
        return
    columns = population.host_columns(np.array([host - first]))[0]
    layout = population.shape.layout
    names = [known.name for known in layout.tensors]
    offset = sum(layout.sizes[: names.index(tensor)])
    population.state[ROWS[row], columns[offset]] = value


def poison_in(
    hosts: DividedHosts, host: int, tensor: str, row: str = "parameters", value: float = np.nan
) -> None:
    """Write a value into one tensor of a host, in the process that holds it."""
    hosts.call(poison, lambda part: (part.start, host, tensor, row, value))


def live(
    hosts: DividedHosts, actions: np.ndarray, before: dict[int, Callable[[], None]] | None = None
) -> list[tuple[Any, ...]]:
    """Return what each step of one episode gives; `before` is what to do before a step."""
    hosts.reset(range(hosts.num_envs))
    story = []
    for step in range(1, STEPS + 1):
        if before and step in before:
            before[step]()
        story.append(hosts.step(actions[step - 1]))
    return story


def random_actions(count: int) -> np.ndarray:
    """Return actions of a whole episode, many of them legal. `[STEPS, N, 8]`"""
    generator = np.random.default_rng(0)
    actions = generator.integers(HEAD_SIZES, size=(STEPS, count, len(HEAD_SIZES)))
    actions[0, :, -1] = Op.GERMINATE
    return actions


def assert_others_equal(
    story: list[tuple[Any, ...]], reference: list[tuple[Any, ...]], broken: list[int]
) -> None:
    """Assert that all hosts but the broken ones lived the same, bit for bit."""
    for step, expected in zip(story, reference, strict=True):
        for ours, theirs in zip(step[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(
                np.delete(ours, broken, axis=0), np.delete(theirs, broken, axis=0)
            )
        for key, theirs in expected[-1].items():
            if isinstance(theirs, np.ndarray):
                np.testing.assert_array_equal(
                    np.delete(step[-1][key], broken, axis=0), np.delete(theirs, broken, axis=0)
                )


POISONS = [
    ("block1.weight", "parameters", np.nan, ("parameters", "nan", "block1.weight")),
    ("block0.bias", "parameters", np.inf, ("parameters", "+inf", "block0.bias")),
    ("classifier.weight", "parameters", -np.inf, ("parameters", "-inf", "classifier.weight")),
    ("block2.weight", "exp_avg", np.nan, ("moments", "nan", "exp_avg of block2.weight")),
    ("block2.weight", "exp_avg", -np.inf, ("moments", "-inf", "exp_avg of block2.weight")),
    ("classifier.bias", "exp_avg_sq", np.inf, ("moments", "+inf", "exp_avg_sq of classifier.bias")),
    ("block0.weight", "exp_avg_sq", -1.0, ("moments", "nan", "exp_avg_sq of block0.weight")),
    ("step", "", -1.0, ("moments", "nan", "step counter")),
]


@pytest.mark.parametrize("step", [1, 3, STEPS])
@pytest.mark.parametrize(("tensor", "row", "value", "expected"), POISONS)
def test_what_broke_between_two_slices_is_the_cause(
    make: Callable[..., DividedHosts],
    step: int,
    tensor: str,
    row: str,
    value: float,
    expected: tuple[str, str, str],
) -> None:
    actions = random_actions(3)
    reference = live(make(), actions)
    hosts = make()
    story = live(hosts, actions, {step: lambda: poison_in(hosts, 1, tensor, row, value)})

    assert_others_equal(story, reference, [1])
    for number, (*_, info) in enumerate(story, start=1):
        fault = HostFault(1, *expected)
        assert info["nonfinite"] == ([fault] if number >= step else []), number
    score = story[-1][-1]["score"]
    if row == "exp_avg_sq" and value == np.inf:  # that weight stands still, the network is finite
        assert np.isfinite(score).all()
    else:
        assert np.isnan(score).tolist() == [False, True, False]
        assert np.isnan(story[-1][1]).tolist() == [False, True, False]


def test_hosts_of_another_process_are_named_by_their_own_number(
    make: Callable[..., DividedHosts],
) -> None:
    count = 2 * LEAST_HOSTS
    actions = random_actions(count)
    hosts = make(count, 2)
    assert hosts.processes == 2
    reference = live(hosts, actions)

    def both() -> None:
        poison_in(hosts, 3, "block1.weight")
        poison_in(hosts, count - 1, "block0.weight", "exp_avg_sq", -0.5)

    for step in (2, STEPS):
        story = live(hosts, actions, {step: both})
        assert_others_equal(story, reference, [3, count - 1])
        assert story[step - 1][-1]["nonfinite"] == [
            HostFault(3, "parameters", "nan", "block1.weight"),
            HostFault(count - 1, "moments", "nan", "exp_avg_sq of block0.weight"),
        ]
        assert np.flatnonzero(np.isnan(story[-1][-1]["score"])).tolist() == [3, count - 1]


def test_finite_hosts_have_no_faults(make: Callable[..., DividedHosts]) -> None:
    hosts = make()
    assert hosts.reset(range(3))[1]["nonfinite"] == []
    for step in live(hosts, random_actions(3)):
        assert step[-1]["nonfinite"] == []
        assert np.isfinite(step[1]).all()


def test_a_forward_pass_that_overflows_breaks_the_loss(
    make: Callable[..., DividedHosts],
) -> None:
    hosts = make()
    overflow = {
        2: lambda: [
            poison_in(hosts, 0, f"{part}.weight", value=3e38)
            for part in ("block1", "block2", "classifier")
        ]
    }
    story = live(hosts, np.zeros((STEPS, 3, 8), dtype=np.int64), overflow)
    (fault,) = story[1][-1]["nonfinite"]
    assert (fault.host, fault.quantity, fault.part) == (0, "loss", "training minibatch")
    assert fault.reproduced
    assert story[-1][-1]["nonfinite"] == [fault]


def test_a_squared_gradient_that_overflows_breaks_the_moments(
    make: Callable[..., DividedHosts],
) -> None:
    hosts = make()
    story = live(
        hosts,
        np.zeros((STEPS, 3, 8), dtype=np.int64),
        {2: lambda: poison_in(hosts, 2, "classifier.weight", value=1e25)},
    )
    (fault,) = story[1][-1]["nonfinite"]
    assert (fault.host, fault.quantity, fault.kind) == (2, "moments", "+inf")
    assert fault.part.startswith("exp_avg_sq of ")


def test_a_fault_that_does_not_recur_is_reported_as_not_reproduced(
    make: Callable[..., DividedHosts], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = make()
    ordinary, calls = lockstep.adam_step_, []

    def once(state: torch.Tensor, *others: Any) -> None:
        ordinary(state, *others)
        calls.append(None)
        if len(calls) == 5:  # the second minibatch of the second slice
            state[1, 0] = torch.nan

    monkeypatch.setattr(lockstep, "adam_step_", once)
    story = live(hosts, np.zeros((STEPS, 3, 8), dtype=np.int64))
    assert story[0][-1]["nonfinite"] == []
    (fault,) = story[1][-1]["nonfinite"]
    assert (fault.host, fault.quantity, fault.kind) == (0, "moments", "nan")
    assert not fault.reproduced
    assert story[-1][-1]["nonfinite"] == [fault]


def test_a_fault_that_repeats_is_traced_to_its_minibatch(
    make: Callable[..., DividedHosts], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks the parameters in one minibatch breaks the loss of the next: no cause."""
    hosts = make()
    ordinary, calls = lockstep.adam_step_, []

    def always(state: torch.Tensor, *others: Any) -> None:
        ordinary(state, *others)
        calls.append(None)
        if len(calls) in (2, 5):  # the second minibatch, and the same one in the repeated slice
            state[0, 0] = torch.inf

    monkeypatch.setattr(lockstep, "adam_step_", always)
    story = live(hosts, np.zeros((STEPS, 3, 8), dtype=np.int64))
    for *_, info in story:
        assert info["nonfinite"] == [HostFault(0, "parameters", "+inf", "block0.weight")]


def test_a_second_fault_is_listed_after_a_harmless_first(
    make: Callable[..., DividedHosts],
) -> None:
    hosts = make()
    story = live(
        hosts,
        np.zeros((STEPS, 3, 8), dtype=np.int64),
        {
            2: lambda: poison_in(hosts, 1, "block0.bias", "exp_avg_sq", np.inf),
            4: lambda: poison_in(hosts, 1, "block1.bias"),
        },
    )
    first = HostFault(1, "moments", "+inf", "exp_avg_sq of block0.bias")
    second = HostFault(1, "parameters", "nan", "block1.bias")
    listed = [info["nonfinite"] for *_, info in story]
    assert listed == [[], [first], [first], [first, second], [first, second]]


def test_a_seed_that_learns_in_the_shadow_is_part_of_its_host(
    settings: dict[str, Any], actions: Callable[..., np.ndarray]
) -> None:
    env = GrowthVectorEnv(2, autoreset_mode=AutoresetMode.DISABLED, **settings)
    env.reset(seed=1)
    conv = BLUEPRINT_CHOICES.index("conv")
    env.step(actions(2, op=Op.GERMINATE, slot=1, blueprint=conv))
    population = env._cohort.population
    column = population.seed_columns(np.array([1]), 1, conv)[0][0]
    population.state[0, column] = torch.nan
    observation, reward, *_, info = env.step(actions(2))
    assert info["nonfinite"] == [HostFault(1, "parameters", "nan", "middle.conv.weight")]
    assert np.isfinite(observation).all(axis=1).tolist() == [True, False]
    assert np.isfinite(reward).all(), "the host itself learns on"

    # Once the seed is taken out, what it left behind is no part of the host.
    *_, info = env.step(actions(2, op=[Op.WAIT, Op.PRUNE], slot=1))
    assert info["nonfinite"] == []
    while not info.get("_score", np.zeros(2, dtype=bool)).any():
        *_, info = env.step(actions(2))
        assert info["nonfinite"] == []
    assert np.isfinite(info["score"]).all()


def test_a_new_episode_forgets_the_faults_of_the_old(settings: dict[str, Any]) -> None:
    env = GrowthVectorEnv(2, autoreset_mode=AutoresetMode.SAME_STEP, **settings)
    env.reset(seed=1)
    waiting = np.zeros((2, 8), dtype=np.int64)
    env._cohort.population.state[0, 0] = torch.nan
    for _ in range(STEPS):
        *_, info = env.step(waiting)
    assert info["nonfinite"] == []
    assert info["final_info"]["nonfinite"] == [HostFault(0, "parameters", "nan", "block0.weight")]
    *_, info = env.step(waiting)
    assert info["nonfinite"] == []

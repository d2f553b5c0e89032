"""Finishing: networks are trained to convergence alike, and one of them is chosen."""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import PortableModule, portable_module
from esper.growth.hosts.host import HostShape
from esper.growth.plain_modules import plain_module
from esper.growth.plain_networks import plain_shape
from esper.growth.tasks.arrays import task_of_arrays
from esper.growth.tasks.folds import folds_of, unfolded
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import Task
from esper.simic.evaluation.tuning import LEARNING_RATES
from esper.simic.growing import finishing
from esper.simic.growing.candidates import Candidate, Kind, Size, choose, size_of
from esper.simic.growing.finishing import Budget, Finished, finish, finish_data
from esper.simic.growing.module_training import Run, _order, train_modules
from esper.simic.requests import GrowingError, Limits


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs short."""
    monkeypatch.setattr(finishing, "_SHORTEST", 40)
    monkeypatch.setattr(finishing, "_LONGEST", 40)


def noisy(samples: int, noise: float) -> Task:
    """Return a task of two classes."""
    generator = np.random.default_rng(0)
    y = np.arange(samples) % 2
    x = generator.normal(size=(samples, 6)) * noise + np.where(y, 1, -1)[:, None]
    return task_of_arrays("noisy", (x, y), (x, y))


def start_of(task: Task, rng_seed: int = 0) -> PortableModule:
    shape = plain_shape(HostShape(task.input_shape, task.classes, 4), 100)
    return plain_module(shape, task, rng_seed)


def test_a_rate_rises_and_then_falls_to_zero() -> None:
    run = Run(0.08, 100, 100)
    rates = [run.rate_at(minibatch) for minibatch in range(101)]
    top = rates.index(max(rates))
    assert max(rates) == 0.08
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == 0.0
    assert top <= 10


def test_a_finished_network_has_learnt_and_is_the_same_every_time() -> None:
    task = noisy(300, 1.5)
    data = finish_data(task, unfolded(task))
    first, second = (finish([start_of(task)], data, rng_seed=4) for _ in range(2))
    assert first.validation_accuracy > 0.85
    assert first.test_accuracy > 0.85
    assert first.run.rate in LEARNING_RATES
    assert first.hits.shape == (len(task.validation),)
    for name, value in first.portable.state.items():
        assert torch.equal(value, second.portable.state[name])
    network = first.portable.module()
    with torch.no_grad():
        right = network(task.raw(task.validation)).argmax(1) == task.validation.labels
        torch.testing.assert_close(network(task.raw(task.test)), first.logits)
    # the weights that are kept are those of the best measurement
    assert right.double().mean().item() == first.validation_accuracy


def test_lengths_double_until_that_does_not_help() -> None:
    task = noisy(300, 3.0)
    finished = finish([start_of(task)], finish_data(task, unfolded(task)), rng_seed=0)
    lengths = [40 * 2**doubling for doubling in range(4)]
    assert finished.run.length in lengths
    assert finished.minibatches in [
        160 + sum(lengths[1 : count + 1]) for count in range(1, len(lengths))
    ]


def test_perfect_networks_are_not_trained_further() -> None:
    task = noisy(300, 0.05)
    finished = finish([start_of(task)], finish_data(task, unfolded(task)), rng_seed=0)
    assert finished.validation_accuracy == 1.0
    assert finished.minibatches == 160


def test_folds_measure_every_sample_and_the_last_run_uses_all_of_them() -> None:
    task = noisy(60, 2.0)
    folds = folds_of(task)
    data = finish_data(task, folds)
    assert len(data.trained) == len(data.validation) == 10
    assert len(data.whole) == 60
    starts = [start_of(task, seed) for seed in range(10)]
    finished = finish(starts, data, rng_seed=0, last=3)
    assert finished.hits.shape == (60,)
    assert set(finished.hits.tolist()) <= {0.0, 0.5, 1.0}
    assert finished.validation_accuracy > 0.7
    # the last run by hand, from the first weights of the fold that was named
    (curve,) = train_modules(
        [starts[3]],
        data.whole,
        [torch.arange(60)],
        None,
        [finished.run],
        rng_seed=0,
        device=torch.device("cpu"),
    )
    assert curve.best is not None
    for name, value in curve.best.state.items():
        assert torch.equal(value, finished.portable.state[name])


def test_networks_of_different_folds_may_have_different_architectures() -> None:
    task = noisy(60, 2.0)
    starts = [start_of(task, seed) for seed in range(10)]
    wider = plain_shape(HostShape(task.input_shape, task.classes, 4), 200)
    data = finish_data(task, folds_of(task))
    mixed = [
        plain_module(wider, task, seed) if seed in (1, 4) else start
        for seed, start in enumerate(starts)
    ]
    finished = finish(mixed, data, rng_seed=0, last=4)
    assert finished.portable.parameters == wider.parameters
    assert finished.validation_accuracy > 0.7


def test_copies_in_lockstep_train_as_each_alone_with_torchs_adam() -> None:
    task = noisy(60, 2.0)
    data = finish_data(task, unfolded(task))
    starts = [start_of(task, seed) for seed in range(2)]
    rows = [torch.arange(0, 24), torch.arange(6, 30)]
    runs = [Run(0.02, 9, 9), Run(0.08, 9, 9)]
    curves = train_modules(
        starts, data.whole, rows, None, runs, rng_seed=3, device=torch.device("cpu")
    )
    for start, own, run, curve in zip(starts, rows, runs, curves, strict=True):
        network = start.module().train()
        optimizer = torch.optim.Adam(network.parameters())
        order = _order(own, 8, 3)
        for number in range(run.stop):
            optimizer.param_groups[0]["lr"] = run.rate_at(number)
            index = next(order)
            optimizer.zero_grad()
            logits = network(data.whole.inputs[index])
            torch.nn.functional.cross_entropy(logits, data.whole.labels[index]).backward()
            optimizer.step()
        assert curve.best is not None
        for name, value in start.with_weights(network).state.items():
            torch.testing.assert_close(curve.best.state[name], value, rtol=1e-3, atol=1e-4)


def test_a_copy_that_is_not_finite_leaves_the_others_alone() -> None:
    task = noisy(60, 2.0)
    data = finish_data(task, unfolded(task))
    start = start_of(task)
    broken = replace(start, state={name: value * torch.nan for name, value in start.state.items()})
    results = []
    for first in (start, broken):
        curves = train_modules(
            [first, start_of(task, 1)],
            data.whole,
            list(data.trained) * 2,
            list(data.validation) * 2,
            [Run(0.02, 9, 9)] * 2,
            rng_seed=3,
            device=torch.device("cpu"),
            keeps_best=True,
        )
        results.append(curves)
    assert results[1][0].at == []
    assert results[0][1].loss == results[1][1].loss


def test_a_budget_without_time_still_gives_a_network() -> None:
    task = noisy(300, 3.0)
    ticks = itertools.count()
    budget = Budget(ends=4.0, clock=lambda: float(next(ticks)))
    data = finish_data(task, unfolded(task))
    finished = finish([start_of(task)], data, rng_seed=0, budget=budget)
    assert finished.is_finite
    assert finished.minibatches < 160
    assert Budget().share(3).left == np.inf
    assert Budget(9.0, lambda: 3.0).share(3).left == 2.0


def test_values_that_overflow_give_no_network_to_choose() -> None:
    task = noisy(300, 1.0)
    start = start_of(task)
    state = {name: value * torch.nan for name, value in start.state.items()}
    broken = replace(start, state=state)
    finished = finish([broken], finish_data(task, unfolded(task)), rng_seed=0)
    assert not finished.is_finite
    assert finished.validation_accuracy == 0.0


def candidate(kind: Kind, parameters: int, right: Sequence[bool], *, excess: str = "") -> Candidate:
    """Return a candidate that is right on the given samples."""
    task = noisy(20, 1.0)
    hits = np.array(right, dtype=float)
    logits = torch.zeros(len(task.test), 2)
    finished = Finished(start_of(task), logits, hits, 0.5, Run(0.01, 40, 40), 40, 1.0)
    return Candidate(kind, "", Size(parameters, 4 * parameters, 9), finished, 1.0, excess)


def right(count: int, of: int = 100) -> list[bool]:
    """Return which of some samples are right: the first ones."""
    return [number < count for number in range(of)]


def test_a_smaller_network_within_the_noise_is_chosen() -> None:
    grown, host = candidate("grown", 1000, right(91)), candidate("host", 500, right(90))
    chosen, reason = choose([grown, host], Limits(), 500)
    assert chosen is host
    assert "better in validation by 0.010, which is within the noise" in reason
    better = candidate("grown", 1000, right(95))
    chosen, reason = choose([better, host], Limits(), 500)
    assert chosen is better
    assert reason == "the grown network, the best in validation"


def test_an_equally_good_smaller_network_is_chosen() -> None:
    networks = [
        candidate("grown", 1000, right(90)),
        candidate("host", 500, right(90)),
        candidate("plain", 900, right(90)),
    ]
    chosen, reason = choose(networks, Limits(), 500)
    assert chosen.kind == "host"
    assert reason == "the same host without growth, the best in validation"


def test_the_price_decides_between_accuracy_and_size() -> None:
    networks = [candidate("grown", 2000, right(90)), candidate("host", 500, right(70))]
    for price, kind in ((0.0, "grown"), (0.05, "grown"), (0.11, "host")):
        chosen, _ = choose(networks, Limits(price=price), 500)
        assert chosen.kind == kind
    _, reason = choose(networks, Limits(price=0.01), 500)
    assert "at a price of 0.01 for each doubling of parameters" in reason


def test_what_exceeds_a_limit_is_not_chosen() -> None:
    grown = candidate("grown", 1000, right(99), excess="1,000 parameters, more than 800")
    host = candidate("host", 500, right(50))
    assert choose([grown, host], Limits(parameters=800), 500)[0] is host
    with pytest.raises(GrowingError, match="each exceeds a limit"):
        choose([grown], Limits(parameters=800), 500)


def test_sizes_are_counted_and_compared_with_limits() -> None:
    task = noisy(60, 1.0)
    start = start_of(task)
    size = size_of(start, task.raw(task.test)[:1])
    layers = [value for name, value in start.state.items() if value.ndim == 2]
    assert size.parameters == start.parameters
    assert size.bytes == sum(4 * value.numel() for value in start.state.values())
    assert size.multiply_adds == sum(value.numel() for value in layers if len(value) > 1)
    assert size.excess(Limits()) == ""
    assert size.excess(Limits(parameters=5)) == f"{size.parameters} parameters, more than 5"
    assert "multiply-adds, more than 5" in size.excess(Limits(multiply_adds=5))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"parameters": 0}, "--max-parameters must be at least 1, not 0"),
        ({"bytes": -4}, "--max-bytes must be at least 1, not -4"),
        ({"multiply_adds": 0}, "--max-multiply-adds must be at least 1, not 0"),
        ({"minutes": 0.0}, "--minutes must be above 0, not 0"),
        ({"minutes": float("nan")}, "--minutes must be above 0, not nan"),
        ({"price": -0.1}, "--price must be 0 or more, not -0.1"),
        ({"price": float("nan")}, "--price must be 0 or more, not nan"),
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, float], words: str) -> None:
    with pytest.raises(GrowingError, match=words):
        Limits(**limits)  # type: ignore[arg-type]  # of each kind in turn


def test_attention_is_trained_in_lockstep_without_warnings(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("it is what it is, said the cat\n" * 60)
    task = load_task(f"chars:{tmp_path / 't.txt'}?context=9")
    env = GrowthVectorEnv(2, task=task, autoreset_mode="Disabled")
    env.reset(seed=0)
    starts = [portable_module(env.finished_network(host), task) for host in range(2)]
    data = finish_data(task, unfolded(task))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = train_modules(
            starts,
            data.whole,
            list(data.trained) * 2,
            list(data.validation) * 2,
            [Run(0.02, 20, 20)] * 2,
            rng_seed=0,
            device=torch.device("cpu"),
        )
    for curve in curves:
        assert curve.loss[-1] < curve.loss[0]

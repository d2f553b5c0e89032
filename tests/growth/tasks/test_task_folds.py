"""Folds of small tasks: stratified, complete, always the same."""

import numpy as np
import pytest
import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.tasks.arrays import task_of_arrays
from esper.growth.tasks.folds import FOLDED_BELOW, folds_of, is_folded, unfolded
from esper.growth.tasks.task import Task


def small_task(sizes: list[int], test: bool = True) -> Task:
    """Return a task with that many samples of each class, and a given test part."""
    y = np.repeat(np.arange(len(sizes)), sizes)
    x = np.random.default_rng(0).normal(size=(len(y), 5)) + y[:, None]
    given = (x[:: max(1, len(y) // 9)], y[:: max(1, len(y) // 9)])
    return task_of_arrays("small", (x, y), given if test else None)


@pytest.mark.parametrize(
    ("sizes", "folds", "repeats"),
    [
        ([25, 25], 5, 2),  # GunPoint
        ([12, 12, 12], 5, 2),  # ArrowHead
        ([10, 10, 10, 10], 5, 2),  # BasicMotions
        ([50, 50, 50], 5, 1),  # iris
        ([30, 3], 3, 2),
        ([30, 20, 1], 2, 2),
    ],
)
def test_each_sample_is_held_out_equally_often(sizes: list[int], folds: int, repeats: int) -> None:
    task = small_task(sizes)
    assert is_folded(task)
    divided = folds_of(task)
    assert (len(divided.tasks), divided.repeats) == (folds * repeats, repeats)
    total = sum(sizes)
    assert len(divided.whole) == total
    held = np.zeros(total, dtype=int)
    for each, rows in zip(divided.tasks, divided.rows, strict=True):
        held[rows] += 1
        torch.testing.assert_close(each.validation.inputs, divided.whole.inputs[rows])
        assert len(each.train) + len(each.validation) == total
        share = each.validation.labels.bincount(minlength=len(sizes))
        assert (share - torch.tensor(sizes) / folds).abs().max() <= 1
        assert each.test is task.test
    assert (held == repeats).all()
    again = folds_of(task)
    for first, second in zip(divided.rows, again.rows, strict=True):
        np.testing.assert_array_equal(first, second)


def test_large_tasks_and_given_validation_parts_are_not_folded() -> None:
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 2
    given = task_of_arrays("given", (x, y), (x, y), (x[:20], y[:20]))
    assert not is_folded(given)
    assert not is_folded(small_task([FOLDED_BELOW, FOLDED_BELOW]))
    only = unfolded(given)
    assert only.tasks == (given,)
    assert only.rows[0].tolist() == list(range(20))


@pytest.mark.parametrize("size", [3, 6, 10])
def test_hosts_train_on_a_few_samples_of_each_class(size: int) -> None:
    task = small_task([size] * 4)
    assert f"only {size * 4} samples of 4 classes" in task.notes[-1]
    env = GrowthVectorEnv(2, task=task, steps=2, autoreset_mode="Disabled")
    env.reset(seed=0)
    for _ in range(2):
        *_, info = env.step(np.zeros((2, 8), dtype=np.int64))
    assert np.isfinite(info["loss"]).all()

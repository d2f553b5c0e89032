"""Tasks: their data, their cache, and the errors for wrong names."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.growth.tasks.loading import (
    InvalidTaskError,
    Split,
    Task,
    UnknownTaskError,
    load_task,
    loader_of,
)
from esper.growth.tasks.sources import mnist1d_cache
from esper.leyline.task_names import TASK_SOURCES, TaskSource


@pytest.mark.parametrize(
    ("name", "shape", "sizes"),
    [("mnist1d", (1, 40), (3200, 800, 1000)), ("digits", (1, 8, 8), (1200, 237, 360))],
)
def test_tasks_have_the_parts_they_promise(
    name: str, shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    task = load_task(name)
    assert task.input_shape == shape
    assert (len(task.train), len(task.validation), len(task.test)) == sizes
    assert task.train.inputs.dtype == torch.float32
    assert task.train.inputs.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert task.train.inputs.std().item() == pytest.approx(1.0, abs=1e-4)
    for part in (task.train, task.validation, task.test):
        assert part.labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("name", ["mnist1d", "digits"])
def test_no_sample_is_in_two_parts(name: str) -> None:
    task = load_task(name)
    rows = torch.cat([part.inputs.flatten(1) for part in (task.train, task.validation, task.test)])
    assert len(rows.unique(dim=0)) == len(rows)


def test_the_split_is_always_the_same() -> None:
    first, second = load_task("mnist1d"), load_task("mnist1d")
    assert first.validation.inputs.equal(second.validation.inputs)
    assert first.train.labels.equal(second.train.labels)


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownTaskError, match="no task 'mnist2d': the tasks are mnist1d, digits"):
        load_task("mnist2d")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: Split(s.inputs[:3], s.labels), "3 inputs and 24 labels"),
        (lambda s: Split(s.inputs[:0], s.labels[:0]), "at least one"),
        (lambda s: Split(s.inputs[..., :9], s.labels), "inputs of shape"),
        (lambda s: Split(s.inputs, s.labels + 1), "labels outside 0 to 3"),
        (lambda s: Split(s.inputs, s.labels.int()), "int64 labels"),
    ],
)
def test_a_task_whose_parts_do_not_fit_is_refused(
    small_task: Callable[..., Task], change: Callable[[Split], Split], complaint: str
) -> None:
    task = small_task()
    with pytest.raises(InvalidTaskError, match=complaint):
        dataclasses.replace(task, test=change(task.test))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own, and a generator that costs nothing and counts calls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return mnist1d_cache.cache_file()


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[mnist1d_cache.Mnist1dArrays]:
    """Every set of arrays that was generated, with a cheap generator."""
    made: list[mnist1d_cache.Mnist1dArrays] = []

    def generate() -> mnist1d_cache.Mnist1dArrays:
        numbers = np.random.default_rng(len(made))
        made.append(
            mnist1d_cache.Mnist1dArrays(
                numbers.normal(size=(4000, 40)),
                numbers.integers(10, size=4000),
                numbers.normal(size=(1000, 40)),
                numbers.integers(10, size=1000),
            )
        )
        return made[-1]

    monkeypatch.setattr(mnist1d_cache, "_generate", generate)
    return made


def test_arrays_are_generated_once(
    cache: Path, generated: list[mnist1d_cache.Mnist1dArrays]
) -> None:
    first = mnist1d_cache.load_mnist1d_arrays()
    second = mnist1d_cache.load_mnist1d_arrays()
    assert len(generated) == 1
    assert cache.is_file()
    assert list(cache.parent.iterdir()) == [cache], (
        "another file was left in the folder of the cache"
    )
    for name, values in vars(first).items():
        np.testing.assert_array_equal(values, getattr(second, name))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"not an archive at all",
        lambda data: data[:5000] + bytes(64) + data[5064:],
    ],
    ids=["empty", "cut short", "something else", "a hole"],
)
def test_a_damaged_cache_is_made_again(
    cache: Path,
    generated: list[mnist1d_cache.Mnist1dArrays],
    damage: Callable[[bytes], bytes],
) -> None:
    mnist1d_cache.load_mnist1d_arrays()
    cache.write_bytes(damage(cache.read_bytes()))
    mended = mnist1d_cache.load_mnist1d_arrays()
    assert len(generated) == 2
    np.testing.assert_array_equal(mended.inputs, generated[1].inputs)
    mnist1d_cache.load_mnist1d_arrays()
    assert len(generated) == 2


def test_a_cache_of_other_shapes_is_made_again(
    cache: Path, generated: list[mnist1d_cache.Mnist1dArrays]
) -> None:
    cache.parent.mkdir(parents=True)
    empty = np.zeros((2, 40))
    np.savez(cache, inputs=empty, labels=empty, test_inputs=empty, test_labels=empty)
    mnist1d_cache.load_mnist1d_arrays()
    assert len(generated) == 1


def test_a_cache_that_cannot_be_written_costs_a_warning_and_no_more(
    tmp_path: Path,
    generated: list[mnist1d_cache.Mnist1dArrays],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "a file, not a directory"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.warns(UserWarning, match="could not be cached"):
        arrays = mnist1d_cache.load_mnist1d_arrays()
    assert arrays is generated[0]


def test_generating_leaves_global_random_state_alone(cache: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).random()
    arrays = mnist1d_cache.load_mnist1d_arrays()
    assert arrays.inputs.shape == (4000, 40)
    assert (random.random(), np.random.random()) == expected


@pytest.mark.parametrize("source", TASK_SOURCES, ids=lambda source: source.name)
def test_every_source_of_tasks_has_its_loader_and_form(source: TaskSource) -> None:
    assert callable(loader_of(source))
    assert source.form.startswith(source.name)

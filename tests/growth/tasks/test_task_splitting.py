"""Parts drawn from the training part: each class in proportion, missing ones are reported."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.growth.tasks.arrays import task_of_arrays
from esper.growth.tasks.samples import Samples
from esper.growth.tasks.splitting import LARGEST_VALIDATION, draw_parts
from esper.growth.tasks.summary import summary_lines

PARTS = ("train", "validation", "test")


def samples(labels: np.ndarray) -> Samples:
    return Samples("data", np.arange(len(labels))[:, None], labels.astype(np.int64))


def counts(parts: dict[str, Samples], classes: int) -> np.ndarray:
    return np.array([np.bincount(parts[part].labels, minlength=classes) for part in PARTS])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 400), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
def test_each_class_is_drawn_in_proportion(sizes: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(seed).shuffle(labels)
    if len(labels) < 10:
        return
    parts = draw_parts({"train": samples(labels)})
    rows = np.concatenate([parts[part].rows for part in PARTS])
    assert sorted(rows) == list(range(len(labels)))
    for part in parts.values():
        np.testing.assert_array_equal(part.labels, labels[part.rows])
        np.testing.assert_array_equal(part.inputs[:, 0], part.rows)
    drawn = counts(parts, len(sizes))
    test, validation = len(parts["test"]), len(parts["validation"])
    assert test == int(0.2 * len(labels))
    assert validation == min(int(0.2 * (len(labels) - test)), LARGEST_VALIDATION)
    # In proportion to within one sample, two where a rare class takes precedence.
    assert (np.abs(drawn[2] - np.array(sizes) * test / len(labels)) <= 2).all()
    for size, held in zip(sizes, drawn.T, strict=True):
        if size >= 3 and min(test, validation) >= len(sizes):
            assert held.min() >= 1


def test_the_same_samples_are_drawn_every_time() -> None:
    labels = np.arange(500) % 7
    first, second = (draw_parts({"train": samples(labels)}) for _ in range(2))
    for part in PARTS:
        np.testing.assert_array_equal(first[part].rows, second[part].rows)


def test_samples_are_not_drawn_in_the_order_of_the_file() -> None:
    parts = draw_parts({"train": samples(np.arange(500) % 2)})
    assert parts["test"].rows.max() > 400
    assert parts["validation"].rows.max() > 400


def test_a_given_part_stays_as_it_is() -> None:
    labels = np.arange(500) % 2
    parts = draw_parts({"train": samples(labels), "test": samples(labels[:50])})
    np.testing.assert_array_equal(parts["test"].rows, np.arange(50))
    assert len(parts["train"]) + len(parts["validation"]) == 500


@pytest.mark.parametrize("period", [50, 80, 130])
def test_a_rare_class_is_in_every_part(period: int) -> None:
    x = np.random.default_rng(0).normal(size=(400, 6))
    task = task_of_arrays("data", (x, (np.arange(400) % period == 0).astype(int)))
    for part in (task.train, task.validation, task.test):
        assert part.labels.unique().tolist() == [0, 1]
    assert task.notes == ()


def test_a_class_that_is_missing_in_a_part_is_reported() -> None:
    x, y = np.random.default_rng(0).normal(size=(400, 6)), np.arange(400) % 4
    y[y == 3] = 2
    y[[10, 20]] = 3
    task = task_of_arrays("data", (x, np.array(["ant", "bee", "cat", "dog"])[y]))
    assert task.notes == ("the test part has no sample of class 'dog'",)
    assert summary_lines(task)[-1] == "note: the test part has no sample of class 'dog'"
    task = task_of_arrays("data", (x, y % 4), (x[y < 2], y[y < 2]))
    assert "the test part has no sample of classes '2', '3'" in task.notes
    task = task_of_arrays("data", (x, y % 2), class_names=("a", "b", "c"))
    missing = "part has no sample of class 'c'"
    assert task.notes == tuple(f"the {part} {missing}" for part in ("train", "test", "validation"))


def test_the_summary_says_the_parts_and_the_largest_class() -> None:
    x, y = np.random.default_rng(0).normal(size=(500, 6)), np.arange(500) % 5 == 0
    task = task_of_arrays("data", (x, y), (x[:100], y[:100]))
    assert summary_lines(task) == [
        "data: 600 vectors of 6 features (guessed from their shape; override with kind=signal); "
        "2 classes",
        "400 samples for training, 100 for validation (drawn from the training part), 100 for "
        "test; the largest class is 0.800 of validation and 0.800 of test",
    ]

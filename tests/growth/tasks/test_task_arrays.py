"""Tasks from a user's own arrays: what becomes of them, and what is refused in which words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from array_files import save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.tasks.arrays import task_of_arrays
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.splitting import LARGEST_VALIDATION
from esper.growth.tasks.summary import summary_lines
from esper.growth.tasks.task import InvalidTaskError, Task


@pytest.mark.parametrize(
    ("shape", "option", "input_shape", "kind", "raw"),
    [
        ((6,), "", (6,), "mlp", (6,)),
        ((20,), "?kind=signal", (1, 20), "conv1d", (20,)),
        ((2, 20), "", (2, 20), "conv1d", (2, 20)),
        ((9, 20), "?kind=signal", (9, 20), "conv1d", (9, 20)),
        ((9, 20), "", (1, 9, 20), "conv2d", (9, 20)),
        ((7, 20), "?kind=image", (1, 7, 20), "conv2d", (7, 20)),
        ((3, 9, 8), "", (3, 9, 8), "conv2d", (3, 9, 8)),
        ((9, 8, 3), "", (3, 9, 8), "conv2d", (9, 8, 3)),
        ((5, 9, 8), "", (5, 9, 8), "conv2d", (5, 9, 8)),
        ((20, 2), "", (2, 20), "conv1d", (20, 2)),
        ((20, 5), "?kind=signal&channels=first", (20, 5), "conv1d", (20, 5)),
        ((20, 9), "?kind=signal&channels=last", (9, 20), "conv1d", (20, 9)),
        ((9, 8, 5), "?channels=last", (5, 9, 8), "conv2d", (9, 8, 5)),
        ((3, 9, 3), "?channels=last", (3, 3, 9), "conv2d", (3, 9, 3)),
    ],
)
def test_shapes_become_inputs_of_the_right_host(
    tmp_path: Path,
    shape: tuple[int, ...],
    option: str,
    input_shape: tuple[int, ...],
    kind: str,
    raw: tuple[int, ...],
) -> None:
    env = GrowthVectorEnv(1, task=save(tmp_path, shape) + option, batch=20, batches=2)
    assert env.task.input_shape == input_shape
    assert env.host_shape.kind == kind
    assert env.task.raw(env.task.test).shape[1:] == raw
    env.reset(seed=0)
    *_, info = env.step(np.zeros((1, 8), dtype=np.int64))
    assert np.isfinite(info["loss"]).all()


def rows(task: Task) -> torch.Tensor:
    """Return the raw samples of all parts, sorted."""
    parts = [task.raw(part).double() for part in (task.train, task.validation, task.test)]
    together = torch.cat(parts).flatten(1)
    return together[together[:, 0].argsort()]


def test_every_sample_is_in_one_part_and_comes_back_raw(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(300, 6)) * [1, 2, 3, 4, 5, 6] + 50
    task = load_task(save(tmp_path, x=x))
    assert (len(task.train), len(task.validation), len(task.test)) == (192, 48, 60)
    expected = torch.from_numpy(x[x[:, 0].argsort()])
    torch.testing.assert_close(rows(task), expected, rtol=0, atol=1e-4)
    again = load_task(save(tmp_path, x=x))
    assert task.validation.inputs.equal(again.validation.inputs)
    assert task.test.labels.equal(again.test.labels)


def test_given_parts_stay_what_they_are(tmp_path: Path) -> None:
    x, y = np.random.default_rng(3).normal(size=(40, 6)), np.arange(40) % 3
    task = load_task(save(tmp_path, x_test=x, y_test=y, x_validation=x, y_validation=y))
    assert len(task.train) == 300
    for part in (task.test, task.validation):
        np.testing.assert_array_equal(part.labels.numpy(), y)
        np.testing.assert_allclose(task.raw(part).numpy(), x, atol=1e-5)


def test_each_channel_is_standardised_by_the_training_part(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=(300, 2, 20)) * [[3.0], [0.1]] + [[100.0], [-5.0]]
    inputs = load_task(save(tmp_path, x=x)).train.inputs
    torch.testing.assert_close(inputs.mean((0, 2)), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(inputs.std((0, 2)), torch.ones(2), rtol=0, atol=1e-3)


def test_a_feature_that_never_changes_does_no_harm(tmp_path: Path) -> None:
    x = np.random.default_rng(3).normal(size=(300, 6))
    x[:, 2] = 0.1
    inputs = load_task(save(tmp_path, x=x)).train.inputs
    assert inputs[:, 2].abs().max() < 1e-6
    assert inputs.isfinite().all()


def test_bytes_stay_bytes_and_train_as_floats_do(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(256, size=(300, 9, 8), dtype=np.uint8)
    accuracies = []
    for x in (pixels, pixels.astype(np.float32)):
        env = GrowthVectorEnv(2, task=save(tmp_path, x=x), batch=20, batches=4)
        kept = env.task.train.inputs.dtype
        assert kept == (torch.uint8 if x is pixels else torch.float32)
        env.reset(seed=0)
        *_, info = env.step(np.zeros((2, 8), dtype=np.int64))
        accuracies.append(info["loss"])
    np.testing.assert_allclose(*accuracies, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["b", "a"]), ("a", "b")),
        (np.array([b"b", b"a"]), ("a", "b")),
        (np.array([7, -2]), ("-2", "7")),
        (np.array([1.0, 0.0]), ("0", "1")),
        (np.array([True, False]), ("False", "True")),
    ],
)
def test_classes_have_names(labels: np.ndarray, names: tuple[str, ...]) -> None:
    x = np.random.default_rng(0).normal(size=(300, 4))
    y = labels[np.arange(300) % 2]
    x[:, 0] = np.arange(300) % 2
    task = task_of_arrays("data", (x, y))
    assert task.class_names == names
    first = task.raw(task.train)[:, 0].round().long()  # 0 where the label is labels[0]
    expected = [names.index(task.class_names[label]) for label in task.train.labels]
    assert ((first == first[0]) == (torch.tensor(expected) == expected[0])).all()


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b", "a"]),
        np.array([b"b\xff", b"a\xfe"]),
        np.array([7, -2]),
        np.array([3.0, 1.0]),
        np.array([True, False]),
    ],
)
def test_labels_of_classes_are_those_of_the_data(labels: np.ndarray) -> None:
    y = labels[np.arange(300) % 2]
    task = task_of_arrays("data", (np.random.default_rng(0).normal(size=(300, 4)), y))
    assert task.class_labels == tuple(sorted(labels.tolist()))
    assert len(set(task.class_names)) == 2


def test_bytes_and_texts_can_be_mixed() -> None:
    x = np.random.default_rng(0).normal(size=(300, 4))
    words = np.array(["ñu", "cat"])[np.arange(300) % 2]
    task = task_of_arrays("data", (x, words), (x, np.char.encode(words, "utf-8")))
    assert task.class_labels == ("cat", "ñu")
    np.testing.assert_array_equal(task.test.labels.numpy(), (words == "ñu").astype(int))
    with pytest.raises(InvalidTaskError, match="has the label b'dog', which is not one of the 2"):
        task_of_arrays("data", (x, words), (x, np.full(300, b"dog")))


@pytest.mark.parametrize(
    ("shape", "option", "words"),
    [
        ((6,), "", "vectors of 6 features (guessed from their shape; override with kind=signal)"),
        ((6,), "?kind=vector", "vectors of 6 features"),
        ((20,), "?kind=signal", "signals of length 20"),
        ((9, 20), "", "images of 9x20 (guessed from their shape; override with kind=signal)"),
        (
            (2, 20),
            "",
            "signals of length 20 with 2 channels, channels first (guessed from their shape; "
            "override with kind=image or channels=last)",
        ),
        (
            (9, 8, 3),
            "",
            "images of 9x8 with 3 channels, channels last (guessed from their shape; override with "
            "channels=first)",
        ),
        ((9, 8, 3), "?channels=last", "images of 9x8 with 3 channels, channels last"),
    ],
)
def test_the_detected_kind_of_samples_is_reported(
    tmp_path: Path, shape: tuple[int, ...], option: str, words: str
) -> None:
    name = save(tmp_path, shape) + option
    assert summary_lines(load_task(name))[0] == f"{name}: 300 {words}; 3 classes"


def test_arrays_that_are_not_used_are_reported_and_can_be_named(tmp_path: Path) -> None:
    x, y = np.random.default_rng(3).normal(size=(40, 6)), np.arange(40) % 3
    name = save(tmp_path, x_val=x, y_val=y, ids=np.arange(3))
    task = load_task(name)
    assert (
        "; not used: x_val, y_val, ids (choose with train=, validation= and test="
        in task.description
    )
    task = load_task(f"{name}?validation=val")
    assert "; not used: ids (choose with train=, validation= and test=" in task.description
    assert len(task.validation) == 40
    assert task.drawn == ("test",)
    task = load_task(
        f"{name}?validation=val&test=val&train=val".replace("train=val", "kind=vector")
    )
    assert (len(task.test), len(task.validation), len(task.train)) == (40, 40, 300)
    swapped = save(tmp_path, x=None, y=None, x_all=np.vstack([x] * 6), y_all=np.hstack([y] * 6))
    assert len(load_task(f"{swapped}?train=all").train) == 154


def test_the_validation_part_stays_small(tmp_path: Path) -> None:
    task = load_task(save(tmp_path, samples=8000))
    assert (len(task.validation), len(task.test)) == (LARGEST_VALIDATION, 1600)
    assert len(task.train) == 8000 - 1600 - LARGEST_VALIDATION


def with_nan(value: float) -> np.ndarray:
    x = np.zeros((300, 6))
    x[17, 3] = x[40, 2] = value
    return x


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": None}, "holds y: it must hold the arrays x (samples) and y (labels)"),
        ({"y": None, "z": np.ones(3)}, "holds x, z: it must hold the arrays x"),
        ({"x_test": np.ones((9, 6))}, "only one of x_test and y_test"),
        ({"x": np.zeros((0, 6)), "y": np.zeros(0)}, "the train part of"),
        ({"x": np.zeros(300)}, "have the shape (300,): they must be flat vectors [n, F]"),
        ({"x": np.zeros((300, 0))}, "have the shape (300, 0)"),
        ({"x": np.zeros((300, 1, 2, 3, 4))}, "have the shape (300, 1, 2, 3, 4)"),
        ({"x": np.full((300, 6), "a")}, "have the type <U1: they must be numbers"),
        ({"x": np.zeros((300, 6), dtype=complex)}, "have the type complex128"),
        (
            {"x": with_nan(np.nan)},
            "2 samples with missing or non-finite values, the first in",
        ),
        (
            {"x": np.where(np.arange(1800).reshape(300, 6) == 12, np.nan, 1.0)},
            "has 1 sample with missing or non-finite values, the first in row 2",
        ),
        ({"x": with_nan(-np.inf)}, "missing or non-finite values"),
        ({"x": with_nan(1e300)}, "too large to be standardised"),
        ({"x": np.zeros((299, 6))}, "there are 299 samples: there must be one label per sample"),
        ({"y": np.zeros((300, 1), dtype=int)}, "per sample; use y.ravel()"),
        ({"y": np.eye(3)[np.arange(300) % 3]}, "for one-hot labels use y.argmax(1)"),
        ({"y": np.full(300, 2.0**60)}, "has the label 1.152921504606847e+18, which is too large"),
        ({"y": np.full(300, 2**64 - 1, dtype=np.uint64)}, "has the label 18446744073709551615"),
        ({"y": np.full(300, np.datetime64(0, "s"))}, "have the type datetime64[s]"),
        (
            {"x": None, "x_train": np.ones(3), "y_train": np.ones(3)},
            "add ?train=train to the task name",
        ),
        ({"y": np.zeros(300)}, "has only one class, 0.0: there must be at least two"),
        ({"y": np.arange(300) / 7}, "fractional labels, such as 0.14"),
        ({"y": np.where(np.arange(300) % 2, 1.0, np.nan)}, "labels that are missing"),
        ({"y": np.arange(300)}, "has 300 classes for 300 samples"),
        (
            {"y": np.zeros(300, dtype=complex)},
            "have the type complex128: they must be whole numbers",
        ),
        ({"y": np.array([None, "a"] * 150)}, "the array y of"),
        (
            {"x_test": np.ones((9, 6)), "y_test": np.full(9, 5)},
            "has the label 5, which is not one of the 3 classes of the train part",
        ),
        (
            {"x_test": np.ones((9, 6)), "y_test": np.full(9, "a")},
            "whole numbers in all parts, or strings in all",
        ),
        (
            {"x_test": np.ones((9, 6)), "y_test": np.full(9, b"a")},
            "whole numbers in all parts, or strings in all",
        ),
        (
            {"x_test": np.ones((9, 5)), "y_test": np.zeros(9)},
            "samples of shape (5,) and the train part (6,)",
        ),
        (
            {"x": np.zeros((50, 6)), "y": np.arange(50) % 20},
            "has 32 samples for training, without those for validation and test: 20 classes need "
            "at least 40",
        ),
        ({"x": np.zeros((4, 6)), "y": np.arange(4) % 2}, "too few to draw a test part"),
    ],
)
def test_data_that_cannot_be_used_gets_one_sentence(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidTaskError) as error:
        load_task(save(tmp_path, **changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("?kind=sound", "kind must be one of vector, signal, image, not 'sound'"),
        ("?kind=image", "shape (6,), but a sample of kind=image must have 2 or 3 axes"),
        ("?channels=middle", "channels must be one of first, last, not 'middle'"),
        ("?channels=last", "a vector of this shape has no channel axis, so channels=last does not"),
        ("?validation=val", "it must hold the arrays x_val (samples) and y_val (labels)"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(tmp_path: Path, option: str, words: str) -> None:
    with pytest.raises(InvalidTaskError) as error:
        load_task(save(tmp_path) + option)
    assert words in str(error.value)


def test_a_kind_of_one_axis_is_described_in_the_singular(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.zeros((300, 9, 9)))
    with pytest.raises(InvalidTaskError, match=r"but a sample of kind=vector must have 1 axis$"):
        load_task(path + "?kind=vector")


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.int16, np.uint8, np.bool_]),
        st.tuples(st.just(170), st.integers(1, 3)),
    ),
    hnp.arrays(st.sampled_from([np.int8, np.float32, np.dtype("<U1")]), 170),
)
def test_any_arrays_make_a_task_or_are_refused(x: np.ndarray, y: np.ndarray) -> None:
    try:
        task = task_of_arrays("data", (x, y))
    except InvalidTaskError:
        return
    ready = task.train.ready(task.train.inputs)
    assert ready.isfinite().all()
    assert ready.abs().max() <= 170


ANY_ARRAY = hnp.arrays(
    hnp.scalar_dtypes() | hnp.byte_string_dtypes(min_len=1) | hnp.unicode_string_dtypes(min_len=1),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
    | st.tuples(st.just(170), st.integers(1, 3)),
)
ANY_LABELS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.byte_string_dtypes(min_len=1) | hnp.unicode_string_dtypes(min_len=1),
    hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4) | st.just((170,)),
    elements=None,
    fill=None,
)


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_ARRAY, ANY_LABELS, st.one_of(st.none(), st.tuples(ANY_ARRAY, ANY_LABELS)))
def test_arrays_of_every_type_and_shape_make_a_task_or_are_refused(
    x: np.ndarray, y: np.ndarray, test: tuple[np.ndarray, np.ndarray] | None
) -> None:
    sentence = ""
    try:
        task = task_of_arrays("data", (x, y), test)
    except InvalidTaskError as error:
        sentence = str(error)
    else:
        assert task.train.ready(task.train.inputs).isfinite().all()
        assert len(task.class_labels) == task.classes
    assert "\n" not in sentence

"""Values that are hard on floating point: large offsets, marks of missing data, constants."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import load_module, logits_of, write_module
from esper.growth.tasks.arrays import task_of_arrays
from esper.growth.tasks.task import InvalidTaskError, Task

SAMPLES = 400
LABELS = np.arange(SAMPLES) % 3


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(SAMPLES, *shape))


def parts_of(task: Task) -> list[torch.Tensor]:
    return [part.ready(part.inputs).double() for part in (task.train, task.validation, task.test)]


SIGNAL = 25 * LABELS[:, None] + 8 * normal(1)
LARGE: dict[str, np.ndarray] = {
    "metres": 5_820_000 - SIGNAL,
    "seconds since 1970": 1_790_000_000 + SIGNAL,
    "the same, whole numbers": (1_790_000_000 + SIGNAL).astype(np.int64),
    "nanoseconds since 1970": ((1_790_000_000 + SIGNAL) * 1e9).astype(np.int64),
    "float32 as far as it goes": (5_820_000 - SIGNAL).astype(np.float32),
    "unsigned": (4_000_000_000 + SIGNAL).astype(np.uint32),
    "big-endian": (5_820_000 - SIGNAL).astype(">f8"),
    "bytes of nearly one value": np.where(normal(1) > 2.9, 254, 255).astype(np.uint8),
    "tiny": 1e-200 * SIGNAL,
    "of 128 bits": (5_820_000 - SIGNAL).astype(np.longdouble),
    "below float32": 1e-42 * SIGNAL,
}


@pytest.mark.parametrize("case", LARGE)
def test_differences_on_top_of_a_large_offset_are_kept(case: str, tmp_path: Path) -> None:
    column = LARGE[case]
    x = np.hstack([column, np.zeros_like(column)]).astype(column.dtype)
    x[0, 1] = x[200, 1] = 1
    task = task_of_arrays("data", (x, LABELS))
    inputs = torch.cat(parts_of(task))
    assert task.train.ready(task.train.inputs)[:, 0].std() == pytest.approx(1, abs=0.01)
    # at any scale, the order of the samples and their relative distances stay the same
    exact = column[:, 0].astype(np.float64) / float(np.abs(column).max())
    exact = np.sort((exact - exact.mean()) / exact.std())
    got = inputs[:, 0].sort().values.numpy()
    np.testing.assert_allclose((got - got.mean()) / got.std(), exact, atol=2e-3)

    env = GrowthVectorEnv(1, task=task, batch=20, batches=2)
    env.reset(seed=0)
    write_module(env.finished_network(0), task, tmp_path)
    module = load_module(tmp_path)
    expected = env.test_logits()[0]
    logits = logits_of(module, task.raw(task.test))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    if x.dtype != np.longdouble:
        mine = torch.from_numpy(x.astype(x.dtype.newbyteorder("=")))
        assert len(torch.unique(logits_of(module, mine), dim=0)) >= min(
            len(np.unique(x, axis=0)), 50
        )


def test_signals_with_large_offsets_keep_their_shape() -> None:
    x = 1e8 + normal(2, 30)
    task = task_of_arrays("data", (x, LABELS))
    raw = torch.cat([task.raw(part) for part in (task.train, task.validation, task.test)])
    expected = np.sort(x.reshape(-1) - 1e8)
    np.testing.assert_allclose(np.sort(raw.numpy().reshape(-1) - 1e8), expected, atol=1e-5)


@pytest.mark.parametrize("mark", [-3.4028234663852886e38, 9.96921e36, -1e30, 1e20])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_mark_of_missing_data_is_named(part: str, mark: float, dtype: str) -> None:
    arrays = {name: (0.1 * normal(6, seed=at)).astype(dtype) for at, name in enumerate("abc")}
    parts = dict(zip(("train", "validation", "test"), arrays.values(), strict=True))
    parts[part][5, 2] = mark
    with pytest.raises(InvalidTaskError) as error:
        task_of_arrays("data", **{name: (x, LABELS) for name, x in parts.items()})
    message = str(error.value)
    assert f"the {part} part of data" in message
    assert "row 5" in message
    assert f"{parts[part][5, 2]:g}" in message
    assert "missing data" in message
    assert "\n" not in message


@pytest.mark.parametrize("row", range(0, SAMPLES, 57))
def test_the_row_of_a_mark_is_that_of_the_file_though_parts_are_drawn(row: int) -> None:
    x = 0.1 * normal(6)
    x[row, 2] = -3.4028234663852886e38
    with pytest.raises(InvalidTaskError) as error:
        task_of_arrays("data", (x, LABELS))
    assert f"row {row} " in str(error.value)
    assert "the train part of data" in str(error.value)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.6, 0.9])
def test_marks_are_found_however_many_there_are(share: float) -> None:
    x = 0.1 * normal(6)
    x[np.random.default_rng(1).random(SAMPLES) < share, 2] = -3.4028234663852886e38
    with pytest.raises(
        InvalidTaskError, match=r"row \d+ of the train part of data has the value -3"
    ):
        task_of_arrays("data", (x, LABELS))


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_finite_mark_is_noted(part: str) -> None:
    parts = {name: 0.1 * normal(6, seed=5) for name in ("train", "validation", "test")}
    parts[part][7, 1] = -9999
    task = task_of_arrays("data", **{name: (x, LABELS) for name, x in parts.items()})
    (note,) = task.notes
    assert note.startswith(f"row 7 of the {part} part of data has the value -9999, 1e+05 times the")


def test_ordinary_and_heavy_tailed_values_are_not_noted() -> None:
    heavy = np.exp(2 * normal(6))
    sparse = np.where(normal(6) > 2, 300.0, 0.0)
    for x in (normal(6), heavy, sparse, normal(6) > 0, normal(3, 20)):
        assert task_of_arrays("data", (x, LABELS)).notes == ()


def test_constant_inputs_are_reported() -> None:
    x = normal(6)
    x[:, [1, 4]] = 0.1, 1e9
    task = task_of_arrays("data", (x, LABELS))
    assert task.notes == ("2 features of 6 never change in training: 1, 4 (counted from 0)",)
    assert task.train.inputs[:, [1, 4]].abs().max() == 0
    x = normal(3, 20)
    x[:, 2] = 7
    notes = task_of_arrays("data", (x, LABELS)).notes
    assert notes == ("1 channel of 3 never changes in training: 2 (counted from 0)",)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.full((SAMPLES, 6), 0.25), "are the same (every value is 0.25)"),
        (np.zeros((SAMPLES, 9, 9), dtype=bool), "are the same (every value is 0)"),
        (np.tile(np.arange(30.0), (SAMPLES, 1)), "are the same: "),
    ],
)
def test_samples_that_are_all_the_same_are_refused(x: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidTaskError) as error:
        task_of_arrays("data", (x, LABELS))
    assert f"all samples of the train part of data {words}" in str(error.value)


@pytest.mark.parametrize("value", [1e300, -1e307, np.longdouble(10) ** 400])
def test_values_beyond_every_scale_are_refused(value: Any) -> None:
    x = normal(6).astype(np.longdouble)
    x[9, 0] = value
    with pytest.raises(InvalidTaskError, match="row 9"):
        task_of_arrays("data", (x, LABELS))

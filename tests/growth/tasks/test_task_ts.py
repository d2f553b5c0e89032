"""Signals in .ts files: every value reaches the task, unequal lengths too; else it is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.growth.tasks.loading import load_task
from esper.growth.tasks.sources.ts_file import _padded, _resampled
from esper.growth.tasks.task import InvalidTaskError, Task

HEADER = """# from a test
@problemName waves
@timeStamps false
@missing false
@univariate false
@equalLength {equal}
@classLabel true 1 2
@data
"""


def write(path: Path, signals: list[np.ndarray]) -> Path:
    """Write signals `[C, L]` whose class is 1 or 2 in turn."""
    lines = [
        ":".join(",".join(map(repr, channel)) for channel in signal.tolist()) + f":{1 + row % 2}"
        for row, signal in enumerate(signals)
    ]
    equal = len({signal.shape[1] for signal in signals}) == 1
    path.write_text(HEADER.format(equal=str(equal).lower()) + "\n".join(lines) + "\n")
    return path


def signals(count: int, lengths: tuple[int, ...] = (12,), rng_seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(rng_seed)
    return [generator.normal(size=(2, lengths[row % len(lengths)])) for row in range(count)]


def raw(task: Task) -> list[np.ndarray]:
    """Return the raw samples of all parts, in a fixed order."""
    parts = [task.raw(part).double().numpy() for part in (task.train, task.validation, task.test)]
    return sorted(np.concatenate(parts), key=lambda signal: signal[0, 0])


def test_every_value_reaches_the_task(tmp_path: Path) -> None:
    given_signals = signals(200)
    task = load_task(f"ts:{write(tmp_path / 'waves.ts', given_signals)}")
    expected = sorted(given_signals, key=lambda signal: signal[0, 0])
    np.testing.assert_allclose(raw(task), expected, atol=1e-5)
    assert task.class_names == ("1", "2")
    assert "signals of length 12 with 2 channels" in task.description


def test_the_official_test_part_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "Waves_TRAIN.ts", signals(150))
    write(tmp_path / "Waves_TEST.ts", signals(30, rng_seed=1))
    task = load_task(f"ts:{path}")
    assert (len(task.test), task.drawn) == (30, ("validation",))
    assert "the test part is Waves_TEST.ts" in task.notes
    write(tmp_path / "other.ts", signals(20, rng_seed=2))
    assert len(load_task(f"ts:{path}?test=other.ts").test) == 20


def test_unequal_lengths_are_padded_and_it_is_reported(tmp_path: Path) -> None:
    given_signals = signals(200, lengths=(9, 12, 10))
    task = load_task(f"ts:{write(tmp_path / 'waves.ts', given_signals)}")
    expected = [np.concatenate([one, np.zeros((2, 12 - one.shape[1]))], 1) for one in given_signals]
    expected.sort(key=lambda signal: signal[0, 0])
    np.testing.assert_allclose(raw(task), expected, atol=1e-5)
    assert any("signals of 9 to 12 values were padded with zeros" in note for note in task.notes)


def test_signals_can_be_resampled(tmp_path: Path) -> None:
    given_signals = signals(200, lengths=(9, 12))
    task = load_task(f"ts:{write(tmp_path / 'waves.ts', given_signals)}?length=5")
    assert task.input_shape == (2, 5)
    assert any("9 to 12 values were resampled to 5" in note for note in task.notes)
    ends = sorted((one[0, 0], one[1, -1]) for one in given_signals)
    np.testing.assert_allclose([(one[0, 0], one[1, -1]) for one in raw(task)], ends, atol=1e-5)


@given(st.integers(1, 20), st.integers(2, 40), st.floats(-9, 9), st.floats(-9, 9))
@settings(deadline=None)
def test_resampling_keeps_straight_lines(length: int, new: int, start: float, end: float) -> None:
    line = np.linspace(start, end, length)[None] if length > 1 else np.full((1, 1), start)
    expected = np.linspace(start, end if length > 1 else start, new)
    np.testing.assert_allclose(_resampled(line, new)[0], expected, atol=1e-9)
    if new >= length:
        assert _padded(line, new)[0].tolist() == [*line[0].tolist(), *[0.0] * (new - length)]


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", "", "is not a .ts file: it has no line @data"),
        ("@timeStamps true\n@data\n", "", "has time stamps, which are not supported"),
        ("@classLabel false\n@data\n", "", "has no class labels"),
        ("@targetlabel true\n@data\n", "", "has no class labels"),
        ("@data\n", "", "{path} has no samples"),
        ("@data\n1,2,3\n", "", "line 2 of {path} must hold the values of a signal, a colon"),
        ("@data\n1,2:a\n1,x:b\n", "", "line 3 of {path} has a value that is not a number"),
        ("@data\n1,2:3,4:a\n1,2:b\n", "", "line 3 of {path} has 1 channels and the first signal 2"),
        ("@data\n1,2:3:a\n", "", "has channels of 1 and 2 values"),
        ("@data\n1,2:a\n1,?:b\n1,2:a\n1,2:b\n", "", "non-finite values, the first in row 1"),
        ("@data\n1,2:a\n", "?length=1", "length must be pad or a number of values"),
        ("@data\n1,2:a\n", "?length=x", "length must be pad or a number of values"),
        ("@data\n1,2:a\n", "?test=none.ts", "there is no file"),
        ("@data\n1,2:a\n", "?kind=image", "allowed: length=..., test=..., validation=..."),
    ],
)
def test_what_cannot_be_used_is_refused_with_one_sentence(
    tmp_path: Path, content: str, options: str, words: str
) -> None:
    path = tmp_path / "t.ts"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"\S") as error:
        load_task(f"ts:{path}{options}")
    assert words.format(path=path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.ts"
    path.write_bytes(b"@data\n\xff\xfe:x\n")
    with pytest.raises(InvalidTaskError, match=r"is not a \.ts file: it is not text in UTF-8"):
        load_task(f"ts:{path}")

"""Next-character prediction: what is in a sample, and that hosts learn it."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.sources.characters import LARGEST_TEST, LARGEST_TRAINING, LARGEST_VALIDATION
from esper.growth.tasks.task import InvalidTaskError, Split, Task


def text_of(task: Task, part: Split, row: int) -> str:
    symbols = [*part.inputs[row].tolist(), int(part.labels[row])]
    return "".join(task.vocabulary[symbol] for symbol in symbols)


def test_a_sample_is_a_window_and_the_character_after_it(tmp_path: Path) -> None:
    text = "".join(np.random.default_rng(0).choice(list("añ日\n 😀"), size=1000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    task = load_task(f"chars:{tmp_path / 't.txt'}?context=7")
    assert (task.vocabulary, task.classes) == (tuple(sorted(set(text))), 6)
    beginning, middle, end = text[:800], text[800:900], text[900:]
    for part, stretch in (
        (task.train, beginning),
        (task.validation, middle),
        (task.test, end),
    ):
        assert len(part) == len(stretch) - 7
        for row in (0, 1, len(part) - 1):
            assert text_of(task, part, row) == stretch[row : row + 8]


def test_windows_share_the_memory_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcd " * 2000)
    task = load_task(f"chars:{tmp_path / 't.txt'}?context=64")
    assert task.train.inputs.dtype == torch.uint8
    assert task.train.inputs.untyped_storage().nbytes() == 10_000


def test_a_long_text_is_read_at_wider_steps(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcd " * 60_000)
    task = load_task(f"chars:{tmp_path / 't.txt'}")
    assert 0.8 * LARGEST_TRAINING <= len(task.train) <= LARGEST_TRAINING
    assert 0.8 * LARGEST_VALIDATION <= len(task.validation) <= LARGEST_VALIDATION
    assert 0.8 * LARGEST_TEST <= len(task.test) <= LARGEST_TEST
    assert text_of(task, task.test, len(task.test) - 1)[:5] in "abcd " * 3


def test_a_host_learns_what_follows(tmp_path: Path) -> None:
    words = np.random.default_rng(0).choice(["one ", "two ", "three "], size=3000)
    (tmp_path / "t.txt").write_text("".join(words))
    env = GrowthVectorEnv(2, task=f"chars:{tmp_path / 't.txt'}?context=8", steps=8)
    assert env.host_shape.kind == "transformer"
    _, info = env.reset(seed=0)
    at_start = info["accuracy"]
    for _ in range(6):
        *_, info = env.step(np.zeros((2, 8), dtype=np.int64))
    assert (info["accuracy"] > 0.75).all(), "only the first letter of a word cannot be known"
    assert (at_start < 0.4).all()


@pytest.mark.parametrize(
    ("text", "option", "words"),
    [
        ("ab" * 40, "", "has 80 characters: for windows of 32 it needs at least"),
        ("ab" * 400, "?context=90", "has 800 characters: for windows of 90 it needs at least"),
        ("a" * 4000, "", "has 1 different characters: it must have 2 to 256"),
        ("".join(map(chr, range(300, 1300))) * 3, "", "has 1000 different characters"),
        ("ab" * 4000, "?context=0", "must be a whole number from 1 to 512"),
        ("ab" * 4000, "?context=many", "must be a whole number from 1 to 512"),
        (b"\xff\xfe" * 4000, "", "is not text in UTF-8"),
        (None, "", "cannot be read: No such file or directory"),
    ],
)
def test_a_text_that_cannot_be_used_gets_one_sentence(
    tmp_path: Path, text: str | bytes | None, option: str, words: str
) -> None:
    path = tmp_path / "t.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidTaskError) as error:
        load_task(f"chars:{path}{option}")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
    st.integers(1, 40),
    st.sampled_from(["1", "7", "512", "0", "\u0663", "x"]),
)
def test_any_file_makes_a_task_or_is_refused(content: bytes, times: int, context: str) -> None:
    sentence = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.txt"
        path.write_bytes(content * times)
        try:
            task = load_task(f"chars:{path}?context={context}")
        except InvalidTaskError as error:
            sentence = str(error)
        else:
            assert int(task.train.inputs.max()) < task.classes
    assert "\n" not in sentence


@pytest.mark.parametrize("context", [1, 7, 32, 200])
def test_the_length_that_is_named_is_enough(tmp_path: Path, context: int) -> None:
    path = tmp_path / "t.txt"
    path.write_text("ab")
    with pytest.raises(InvalidTaskError) as error:
        load_task(f"chars:{path}?context={context}")
    path.write_text(("ab" * 5000)[: int(str(error.value).split()[-1])])
    assert len(load_task(f"chars:{path}?context={context}").train) >= 100

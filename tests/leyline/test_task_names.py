"""Names of tasks: what is accepted, and the errors for the rest."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline.task_names import (
    BUILT_IN,
    TaskName,
    UnknownTaskError,
    check_task,
    parse_task_name,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((name, TaskName(name, name)) for name in BUILT_IN),
        ("cifar10:data/c", TaskName("cifar10:data/c", "cifar10", "data/c")),
        ("npz:a b.npz", TaskName("npz:a b.npz", "npz", "a b.npz")),
        ("npz:a.npz?kind=x", TaskName("npz:a.npz?kind=x", "npz", "a.npz", {"kind": "x"})),
        (
            "hf:u/n?input=a&label=b",
            TaskName("hf:u/n?input=a&label=b", "hf", "u/n", {"input": "a", "label": "b"}),
        ),
        ("chars:C:\\t.txt", TaskName("chars:C:\\t.txt", "chars", "C:\\t.txt")),
    ],
)
def test_a_name_is_taken_apart(text: str, expected: TaskName) -> None:
    assert parse_task_name(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", f"there is no task '': the tasks are {', '.join(BUILT_IN)}, npz:FILE.npz"),
        ("npz", "there is no task 'npz'"),
        ("tsv:a.tsv", "there is no task 'tsv:a.tsv'"),
        ("npz:", "the task 'npz:' must have the form npz:FILE.npz"),
        ("chars:?context=3", "must have the form chars:FILE.txt"),
        ("digits:here", "the task 'digits:here' must have the form digits"),
        ("npz:a.npz?label=b", "allowed: channels=..., kind=..., test=..."),
        (
            "hf:n?label=",
            "allowed: channels=..., config=..., input=..., kind=..., label=..., test=...",
        ),
        ("hf:n?label=a&label=b", "are not valid"),
        ("npz:a.npz?signal", "are not valid"),
        ("cifar10:a?kind=image", "allowed: none"),
    ],
)
def test_an_invalid_name_is_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UnknownTaskError) as error:
        parse_task_name(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text())
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    for prefix in ("", "npz:", "hf:", "chars:"):
        try:
            name = parse_task_name(prefix + text)
        except UnknownTaskError:
            continue
        assert name.text == prefix + text


def test_short_and_absolute_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npz").touch()
    name = parse_task_name("npz:a.npz?kind=signal")
    assert name.short == "a"
    assert name.absolute == f"npz:{tmp_path}/a.npz?kind=signal"
    for elsewhere in ("mnist1d", "hf:user/name", "npz:absent.npz"):
        assert parse_task_name(elsewhere).absolute == elsewhere


@pytest.mark.parametrize("prefix", ["", "npz:", "hf:./", "chars:", "cifar10:"])
def test_a_name_longer_than_any_path_is_refused_in_one_sentence(prefix: str) -> None:
    with pytest.raises(UnknownTaskError) as error:
        check_task(parse_task_name(prefix + "x" * 5_000))
    assert "\n" not in str(error.value)


def test_the_hint_for_a_folder_searches_one_level_below_only(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "data_batch_1.bin").touch()
    with pytest.raises(UnknownTaskError, match=f"did you mean hf:{tmp_path}"):
        parse_task_name(str(tmp_path))
    with pytest.raises(UnknownTaskError, match=f"did you mean cifar10:{tmp_path / 'a'}"):
        parse_task_name(str(tmp_path / "a"))

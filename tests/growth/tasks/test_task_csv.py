"""Tables in .csv files: every number and label reaches the task; anything else is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.growth.tasks.loading import load_task
from esper.growth.tasks.sources.csv_file import labels_of_texts
from esper.growth.tasks.task import InvalidTaskError, Task

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(200, 3)).round(6), np.arange(200) % 2
NAMES = np.array(["healthy", "ill"])


def write(path: Path, *, separator: str = ",", header: str = "a,b,c,kind", rows: int = 200) -> Path:
    """Write a table of three numbers and a label per line."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file, delimiter=separator)
        lines.writerow(header.split(","))
        lines.writerows(
            [*map(repr, map(float, x)), NAMES[y]] for x, y in zip(X[:rows], Y[:rows], strict=True)
        )
    return path


def check_rows(task: Task, expected: np.ndarray) -> None:
    """Check that the raw samples of all parts are these `[n, F]`, in any order."""
    raw = np.concatenate([task.raw(part) for part in (task.train, task.validation, task.test)])
    np.testing.assert_allclose(
        raw[raw[:, 0].argsort()], expected[expected[:, 0].argsort()], atol=1e-5
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_row_reaches_the_task(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path / "table.csv", separator=separator)
    task = load_task(f"csv:{path}?label=kind")
    assert task.class_names == ("healthy", "ill")
    assert task.input_shape == (3,)
    check_rows(task, X)
    assert len(task.train) + len(task.validation) + len(task.test) == 200


def test_a_column_with_a_usual_name_is_the_label_and_columns_can_be_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", header="a,id,c,Label")
    task = load_task(f"csv:{path}?drop=id")
    check_rows(task, X[:, [0, 2]])


def test_other_files_hold_the_other_parts(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv")
    write(tmp_path / "test.csv", rows=40)
    task = load_task(f"csv:{path}?label=kind&test=test.csv")
    assert (len(task.test), len(task.train) + len(task.validation)) == (40, 200)
    assert task.drawn == ("validation",)


def test_samples_can_be_signals(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv")
    assert load_task(f"csv:{path}?label=kind&kind=signal").input_shape == (1, 3)


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("", "", "the first line of {path} must name the columns"),
        ("1,2,x\n3,4,y\n", "", "the first line of {path} must name the columns"),
        ("a,b,label\n", "", "{path} has no samples: only its header"),
        ("a,a,label\n1,2,x\n", "", "has two columns named 'a'"),
        ("a,b,label\n1,2\n", "", "line 2 of {path} has 2 fields and its header 3"),
        ("a,b,kind\n1,2,x\n", "", "add ?label=COLUMN to the task name; its columns are a, b, kind"),
        (
            "a,b,kind\n1,2,x\n",
            "?label=kinds",
            "no column 'kinds', only a, b, kind; did you mean kind",
        ),
        ("a,b,kind\n1,2,x\n", "?label=kind&drop=x", "has no column 'x' to drop"),
        ("a,label\n1,x\n", "?drop=a", "{path} has no column besides its labels"),
        ("a,label\n1,x\n\nred,y\n", "", "column 'a' has 'red' in line 4 of {path}"),
        ("a,label\n1,x\n,y\n", "", "column 'a' is empty in line 3 of {path}"),
        ("a,label\n1,x\n2,\n", "", "the label in line 3 of {path} is empty"),
        ("a,label\n1,x\nnan,y\n2,x\n2,y\n", "", "missing or non-finite values, the first in row 1"),
        ("a,label\n1,x\n", "?test=none.csv", "there is no file"),
        ("a,label\n1,x\n", "?lable=a", "allowed: drop=..., kind=..., label=..., test="),
    ],
)
def test_what_cannot_be_used_is_refused_with_one_sentence(
    tmp_path: Path, content: str, options: str, words: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"\S") as error:
        load_task(f"csv:{path}{options}")
    assert words.format(path=path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,label\n\xff\xfe,x\n")
    with pytest.raises(InvalidTaskError, match="is not a CSV file in UTF-8"):
        load_task(f"csv:{path}")
    with pytest.raises(InvalidTaskError, match="cannot be read: Is a directory"):
        load_task(f"csv:{tmp_path}")


@given(st.lists(st.one_of(st.integers(), st.text(max_size=3)), min_size=1).map(
    lambda labels: [str(label) for label in labels]))  # fmt: skip
@settings(deadline=None)
def test_labels_stay_what_they_are(texts: list[str]) -> None:
    assert [str(label) for label in labels_of_texts(texts).tolist()] == [
        text.rstrip("\0") for text in texts  # NumPy drops NUL characters at the end of a text
    ]  # fmt: skip

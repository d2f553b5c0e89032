"""Tasks from .csv files: one sample per line, its class in one column, a number in each other."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from esper.growth.tasks.arrays import Arrays, task_of_arrays
from esper.growth.tasks.sources.part_files import files_of_parts
from esper.growth.tasks.sources.shape_options import kind_of
from esper.growth.tasks.task import InvalidTaskError, Task
from esper.leyline.task_names import TaskName
from esper.leyline.text.suggestions import did_you_mean

#: Columns that are taken for the labels if the option `label` is not given.
_LABEL_NAMES: Final = ("label", "labels", "class", "target", "y")
#: Separators that are recognised in the header.
_SEPARATORS: Final = ",;\t"
#: Column names that a message lists at most.
_NAMED: Final = 8


@dataclass(frozen=True)
class _Table:
    """The lines of one file.

    Attributes:
        path: the file.
        header: names of the columns.
        rows: number of the line, counted from 1, and its fields.
    """

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]


def load_csv(name: TaskName) -> Task:
    """Load the task of a file whose first line names the columns.

    The option `label` names the column of the classes, `drop` columns to leave out, separated by
    commas; `validation` and `test` name files with those parts, in the folder of the first.

    Raises:
        InvalidTaskError: a file is missing or cannot be read, or a value is not a number.
    """
    tables = {part: _read(path) for part, path in files_of_parts(name).items()}
    first = tables["train"]
    label = _label_column(name, first.header)
    features = _feature_columns(name, first.header, label)
    arrays = {part: _arrays(table, label, features) for part, table in tables.items()}
    return task_of_arrays(
        name.text,
        arrays["train"],
        arrays.get("test"),
        arrays.get("validation"),
        kind=kind_of(name),
        notes=()
        if "label" in name.options
        else (f"the classes are in the column {label!r}; label=COLUMN names another",),
    )


def _read(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = max(_SEPARATORS, key=first.count)
            header = [field.strip() for field in next(csv.reader([first], delimiter=separator), [])]
            lines = csv.reader(file, delimiter=separator)
            rows = [(lines.line_num + 1, fields) for fields in lines if fields]
    except FileNotFoundError:
        raise InvalidTaskError(f"there is no file {path}") from None
    except OSError as error:
        raise InvalidTaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidTaskError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not any(header) or any(map(_is_number, header)):
        raise InvalidTaskError(f"the first line of {path} must name the columns")
    if twice := sorted({field for field in header if header.count(field) > 1}):
        raise InvalidTaskError(f"{path} has two columns named {twice[0]!r}: names must differ")
    if not rows:
        raise InvalidTaskError(f"{path} has no samples: only its header")
    for number, fields in rows:
        if len(fields) != len(header):
            raise InvalidTaskError(
                f"line {number} of {path} has {len(fields)} fields and its header {len(header)}"
            )
    return _Table(path, header, rows)


def _label_column(name: TaskName, header: Sequence[str]) -> str:
    """Return the name of the column that holds the classes."""
    given = name.options.get("label")
    if given is not None:
        if given not in header:
            raise InvalidTaskError(
                f"{name.path} has no column {given!r}, only {_listed(header)}"
                f"{did_you_mean(given, header)}"
            )
        return given
    likely = [column for column in header if column.lower() in _LABEL_NAMES]
    if len(likely) != 1:
        raise InvalidTaskError(
            f"it is not known which column of {name.path} holds the classes: add ?label=COLUMN to "
            f"the task name; its columns are {_listed(header)}"
        )
    return likely[0]


def _feature_columns(name: TaskName, header: Sequence[str], label: str) -> list[str]:
    dropped = [column.strip() for column in name.options.get("drop", "").split(",") if column]
    for column in dropped:
        if column not in header:
            raise InvalidTaskError(
                f"{name.path} has no column {column!r} to drop{did_you_mean(column, header)}"
            )
    features = [column for column in header if column != label and column not in dropped]
    if not features:
        raise InvalidTaskError(f"{name.path} has no column besides its labels")
    return features


def _arrays(table: _Table, label: str, features: Sequence[str]) -> Arrays:
    """Return the numbers `[n, F]` and the labels `[n]` of a file."""
    missing = [column for column in (label, *features) if column not in table.header]
    if missing:
        raise InvalidTaskError(f"{table.path} has no column {missing[0]!r}")
    place = {column: number for number, column in enumerate(table.header)}
    columns = [(column, place[column]) for column in features]
    inputs = np.empty((len(table.rows), len(features)))
    for row, (line, fields) in enumerate(table.rows):
        for at, (column, number) in enumerate(columns):
            text = fields[number].strip()
            try:
                inputs[row, at] = float(text)
            except ValueError:
                what = f"has {text!r}" if text else "is empty"
                raise InvalidTaskError(
                    f"column {column!r} {what} in line {line} of {table.path}: it must be a "
                    "number; drop=COLUMN in the task name leaves a column out"
                ) from None
    labels = [fields[place[label]].strip() for _, fields in table.rows]
    if "" in labels:
        line = table.rows[labels.index("")][0]
        raise InvalidTaskError(f"the label in line {line} of {table.path} is empty")
    return inputs, labels_of_texts(labels)


def labels_of_texts(texts: Sequence[str]) -> np.ndarray:
    """Return labels `[n]` as whole numbers if all of them are, else as texts."""
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return np.array(texts)
    is_plain = all(str(number) == text for number, text in zip(numbers, texts, strict=True))
    # A label such as 007 keeps its zeros, as a text; so does a number too large for 64 bits.
    fits = is_plain and all(abs(number) < 2**63 for number in numbers)
    return np.array(numbers, dtype=np.int64) if fits else np.array(texts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(header: Sequence[str]) -> str:
    more = f" and {len(header) - _NAMED} more" if len(header) > _NAMED else ""
    return ", ".join(header[:_NAMED]) + more

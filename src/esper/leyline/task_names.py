"""Names of tasks, and the table of all sources that tasks can come from.

| name                  | what it is                                                             |
|-----------------------|------------------------------------------------------------------------|
| `mnist1d`, `digits`   | generated, or shipped with scikit-learn: nothing is downloaded         |
| `cifar10[:FOLDER]`    | CIFAR-10, from files in a folder or by the datasets extra              |
| `npz:FILE.npz`        | arrays `x` and `y` of your own, optionally `x_test` and `y_test`       |
| `csv:FILE.csv`        | a table: a class in one column, a number in each other                 |
| `ts:FILE.ts`          | signals in the format of the UCR and UEA archives                      |
| `hf:NAME`             | a dataset by its name or its folder, by the datasets extra             |
| `chars:FILE.txt`      | the next character of a text                                           |

Options follow as in a web address: `npz:FILE.npz?kind=signal`, `hf:NAME?input=img&label=kind`.

A source is added by a row in `TASK_SOURCES` and a function that returns a `Task`.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qsl

from esper.leyline.errors import EsperError
from esper.leyline.text.suggestions import did_you_mean

#: Parts of a task; options of these names say which part of the data each is.
PARTS: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskSource:
    """One kind of task: how it is named, and which function loads it.

    Attributes:
        name: what stands before the colon.
        loader: `module:function` that takes a `TaskName` and returns a `Task`.
        place: what stands after the colon: nothing, a file, a folder (optional), or the name of a
            dataset.
        form: how such a task is written, shown in messages and `--help`.
        options: names of the options that it has.
        suffix: suffix of its files, to suggest it for a bare file name.
    """

    name: str
    loader: str
    place: Literal["none", "file", "folder", "dataset"] = "none"
    form: str = ""
    options: frozenset[str] = frozenset()
    suffix: str = ""


#: Every source of tasks, in the order of messages and `--help`.
TASK_SOURCES: Final = (
    TaskSource("mnist1d", "esper.growth.tasks.loading:load_mnist1d", form="mnist1d"),
    TaskSource("digits", "esper.growth.tasks.loading:load_digits", form="digits"),
    TaskSource(
        "cifar10", "esper.growth.tasks.sources.cifar10:load_cifar10", "folder", form="cifar10"
    ),
    TaskSource(
        "npz",
        "esper.growth.tasks.sources.npz:load_npz",
        "file",
        form="npz:FILE.npz",
        options=frozenset({"kind", "channels", *PARTS}),
        suffix=".npz",
    ),
    TaskSource(
        "csv",
        "esper.growth.tasks.sources.csv_file:load_csv",
        "file",
        form="csv:FILE.csv",
        options=frozenset({"label", "drop", "kind", "validation", "test"}),
        suffix=".csv",
    ),
    TaskSource(
        "ts",
        "esper.growth.tasks.sources.ts_file:load_ts",
        "file",
        form="ts:FILE.ts",
        options=frozenset({"length", "validation", "test"}),
        suffix=".ts",
    ),
    TaskSource(
        "hf",
        "esper.growth.tasks.sources.hugging_face:load_hugging_face",
        "dataset",
        form="hf:NAME",
        options=frozenset({"config", "input", "label", "kind", "channels", *PARTS}),
    ),
    TaskSource(
        "chars",
        "esper.growth.tasks.sources.characters:load_characters",
        "file",
        form="chars:FILE.txt",
        options=frozenset({"context"}),
        suffix=".txt",
    ),
)
SOURCE_BY_NAME: Final = {source.name: source for source in TASK_SOURCES}
#: Tasks that can be named without a place, and the forms of the others.
BUILT_IN: Final = tuple(each.name for each in TASK_SOURCES if each.place in ("none", "folder"))
WITH_PLACE: Final = tuple(each.form for each in TASK_SOURCES if each.place in ("file", "dataset"))
#: The values that an option can have, where there are only some.
_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "kind": ("vector", "signal", "image"),
    "channels": ("first", "last"),
}


class UnknownTaskError(EsperError, ValueError):
    """No task has this name, or the name has the wrong form."""


@dataclass(frozen=True)
class TaskName:
    """A parsed task name.

    Attributes:
        text: the whole name.
        source: name of its source, one of `SOURCE_BY_NAME`.
        place: file, folder or dataset; empty for tasks without one.
        options: how to read the data.
    """

    text: str
    source: str
    place: str = ""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The place as a path; `~` and `~user` are replaced if there is such a user."""
        path = Path(self.place)
        try:
            return path.expanduser()
        except RuntimeError:
            return path

    @property
    def short(self) -> str:
        """A short name for titles: without folders and options."""
        return Path(self.place).stem if self.place else self.source

    @property
    def absolute(self) -> str:
        """The name with an absolute path, if its place is an existing file or folder."""
        if not self.place or not os.path.exists(self.path):
            return self.text
        _, _, options = self.text.partition("?")
        return f"{self.source}:{self.path.resolve()}" + (f"?{options}" if options else "")


def parse_task_name(text: str) -> TaskName:
    """Parse the name of a task; no data is read.

    Raises:
        UnknownTaskError: no task has this name, or the name has the wrong form.
    """
    if "\0" in text:
        raise UnknownTaskError(f"the task {text!r} contains a NUL character")
    name, colon, rest = text.partition(":")
    source = SOURCE_BY_NAME.get(name)
    if source is None or (name not in BUILT_IN and not colon):
        raise UnknownTaskError(
            f"there is no task {text!r}: the tasks are {', '.join((*BUILT_IN, *WITH_PLACE))}"
            f"{_hint(text)}"
        )
    place, _, query = rest.partition("?")
    if colon and (source.place == "none" or not place):
        raise UnknownTaskError(f"the task {text!r} must have the form {source.form}")
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    unknown = [key for key in options if key not in source.options]
    if unknown or len(options) < len(pairs) or (query and not pairs) or "" in options.values():
        allowed = ", ".join(f"{key}=..." for key in sorted(source.options)) or "none"
        raise UnknownTaskError(
            f"the options {query!r} of task {name}:{place} are not valid; allowed: {allowed}"
        )
    return TaskName(text, name, place, options)


def _hint(text: str) -> str:
    """Return a suggestion for an unknown name; empty if nothing is similar."""
    place, mark, _ = text.partition("?")
    path = Path(place)
    suffix = path.suffix.lower()
    name = next((each.name for each in TASK_SOURCES if suffix and each.suffix == suffix), None)
    if name is None and place and os.path.isdir(path):
        name = "cifar10" if _has_binary_batches(path) else "hf"
    if name is not None:
        return f"; did you mean {name}:{text}?"
    return "" if mark else did_you_mean(text, BUILT_IN)


def _has_binary_batches(folder: Path) -> bool:
    """Return whether a folder has CIFAR-10's batches, in it or one level below, as the task reads.

    Deeper folders are not searched: `/` would be the whole disk.
    """
    patterns = ("data_batch_*.bin", "*/data_batch_*.bin")
    try:
        return any(any(folder.glob(pattern)) for pattern in patterns)
    except OSError:  # a folder that is removed meanwhile or cannot be read
        return False


def check_task(name: TaskName) -> None:
    """Check a task's options and place before its data is read.

    Raises:
        UnknownTaskError: its file or folder does not exist, or an option has an impossible value.
    """
    for option, values in _VALUES.items():
        value = name.options.get(option, values[0])
        if value not in values:
            raise UnknownTaskError(
                f"{option} in the task {name.text} must be one of {', '.join(values)}, not "
                f"{value!r}{did_you_mean(value, values)}"
            )
    place = SOURCE_BY_NAME[name.source].place
    if place == "file" and not os.path.exists(name.path):
        raise UnknownTaskError(f"there is no file {name.path}")
    if place == "folder" and name.place and not os.path.isdir(name.path):
        raise UnknownTaskError(f"there is no folder {name.path}")
    is_path = name.place.startswith(("/", "./", "../", "~"))
    if place == "dataset" and is_path and not os.path.exists(name.path):
        raise UnknownTaskError(f"there is no folder {name.path}")

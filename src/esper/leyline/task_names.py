"""How a task is named: by itself, or by where its data is and how that is to be read.

| name                  | what it is                                                             |
|-----------------------|------------------------------------------------------------------------|
| `mnist1d`, `digits`   | made, or shipped with scikit-learn: nothing is downloaded              |
| `cifar10[:FOLDER]`    | CIFAR-10, of files in a folder, or by the datasets extra               |
| `npz:FILE.npz`        | arrays `x` and `y` of your own, perhaps `x_test` and `y_test`          |
| `hf:NAME`             | a dataset by its name or its folder, with the datasets extra           |
| `chars:FILE.txt`      | the next character of a text                                           |

Options follow as in a web address: `npz:FILE.npz?kind=signal`, `hf:NAME?input=img&label=kind`.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from esper.leyline.errors import EsperError
from esper.leyline.suggestions import did_you_mean

#: Sources of tasks that have a name of their own.
BUILT_IN: Final = ("mnist1d", "digits", "cifar10")
#: How the others are written.
WITH_PLACE: Final = ("npz:FILE.npz", "hf:NAME", "chars:FILE.txt")

#: Parts of a task; the options of these names say which part of the data each is.
PARTS: Final = ("train", "validation", "test")

#: The options that each source knows.
_OPTIONS: Final[dict[str, frozenset[str]]] = {
    "mnist1d": frozenset(),
    "digits": frozenset(),
    "cifar10": frozenset(),
    "npz": frozenset({"kind", "channels", *PARTS}),
    "hf": frozenset({"config", "input", "label", "kind", "channels", *PARTS}),
    "chars": frozenset({"context"}),
}
#: The values that an option can have, where there are only some.
_VALUES: Final[dict[str, tuple[str, ...]]] = {
    "kind": ("vector", "signal", "image"),
    "channels": ("first", "last"),
}
#: The source that reads a file with this suffix.
_SOURCES_BY_SUFFIX: Final = {".npz": "npz", ".txt": "chars"}
_PLACES_ALLOWED: Final = ("cifar10", "npz", "hf", "chars")


class UnknownTaskError(EsperError, ValueError):
    """There is no task of this name, or it is not written as it should be."""


@dataclass(frozen=True)
class TaskName:
    """The name of a task, taken apart.

    Attributes:
        text: the whole of it.
        source: what kind of task it is, among the keys of `TASK_LOADERS`.
        place: the file, folder or dataset; empty for tasks that need none.
        options: how to read that.
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
        """A name for titles: without folders and options."""
        return Path(self.place).stem if self.place else self.source

    @property
    def absolute(self) -> str:
        """The text with an absolute path, where the place is a file or folder that is there."""
        if not self.place or not os.path.exists(self.path):
            return self.text
        _, _, options = self.text.partition("?")
        return f"{self.source}:{self.path.resolve()}" + (f"?{options}" if options else "")


def parse_task_name(text: str) -> TaskName:
    """Take the name of a task apart; nothing is read.

    Raises:
        UnknownTaskError: there is no such task, or something is missing or too much in its name.
    """
    if "\0" in text:
        raise UnknownTaskError(f"the task {text!r} holds a NUL character, which no name can have")
    source, colon, rest = text.partition(":")
    if source not in _OPTIONS or (source not in BUILT_IN and not colon):
        raise UnknownTaskError(
            f"there is no task {text!r}: the tasks are {', '.join((*BUILT_IN, *WITH_PLACE))}"
            f"{_hint(text)}"
        )
    place, _, query = rest.partition("?")
    if colon and (source not in _PLACES_ALLOWED or not place):
        wanted = next((form for form in WITH_PLACE if form.startswith(source + ":")), source)
        raise UnknownTaskError(f"the task {text!r} must be written {wanted}")
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    known = _OPTIONS[source]
    unknown = [key for key in options if key not in known]
    if unknown or len(options) < len(pairs) or (query and not pairs) or "" in options.values():
        allowed = ", ".join(f"{key}=..." for key in sorted(known)) or "none"
        raise UnknownTaskError(
            f"the options {query!r} of task {source}:{place} cannot be read: allowed are {allowed}"
        )
    return TaskName(text, source, place, options)


def _hint(text: str) -> str:
    """Return how a task that is not known was probably meant; empty if nothing is like it."""
    place, mark, _ = text.partition("?")
    path = Path(place)
    source = _SOURCES_BY_SUFFIX.get(path.suffix.lower())
    if source is None and place and os.path.isdir(path):
        source = "cifar10" if any(path.glob("**/data_batch_*.bin")) else "hf"
    if source is not None:
        return f"; did you mean {source}:{text}?"
    return "" if mark else did_you_mean(text, BUILT_IN)


def check_task(name: TaskName) -> None:
    """Check what can be known of a task before its data is read.

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
    if name.source in ("npz", "chars") and not os.path.exists(name.path):
        raise UnknownTaskError(f"there is no file {name.path}")
    if name.source == "cifar10" and name.place and not os.path.isdir(name.path):
        raise UnknownTaskError(f"there is no folder {name.path}")
    is_path = name.place.startswith(("/", "./", "../", "~"))
    if name.source == "hf" and is_path and not os.path.exists(name.path):
        raise UnknownTaskError(f"there is no folder {name.path}")

"""Tasks from .ts files: signals in the text format of the UCR and UEA archives, sktime and aeon.

A header of `@` lines precedes `@data`. Each line after it is a sample: its channels, separated by
colons, then its class. The values of a channel are separated by commas. The format is described at
https://www.sktime.net/en/stable/api_reference/file_specifications/ts.html

The file is read here and not by aeon: through numba that would hold NumPy back and add 200 MB, for
a format that takes a page to read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from esper.growth.tasks.arrays import Arrays, task_of_arrays
from esper.growth.tasks.sources.csv_file import labels_of_texts
from esper.growth.tasks.sources.part_files import files_of_parts
from esper.growth.tasks.task import InvalidTaskError, Task
from esper.leyline.task_names import TaskName

#: Ending of the file name of a training part, and of the test part that belongs to it.
_TRAIN, _TEST = "_TRAIN.ts", "_TEST.ts"
#: Largest number of values to which signals can be resampled.
_LONGEST: Final = 100_000
_MISSING: Final = frozenset({"?", "nan"})


@dataclass(frozen=True)
class _Signals:
    """The samples of one file: signals `[C, L]`, which may differ in L, and their labels."""

    signals: list[np.ndarray]
    labels: list[str]


def load_ts(name: TaskName) -> Task:
    """Load the task of a file in the `.ts` format.

    The test part of `NAME_TRAIN.ts` is `NAME_TEST.ts` in the same folder, if that exists. The
    options `validation` and `test` name other files. Signals of different lengths are padded with
    zeros at their end; the option `length` gives the number of values to which all signals are
    resampled instead.

    Raises:
        InvalidTaskError: a file is missing or has another format, or its samples cannot be used.
    """
    files = files_of_parts(name)
    official = name.path.with_name(name.path.name.removesuffix(_TRAIN) + _TEST)
    if "test" not in files and name.path.name.endswith(_TRAIN) and official.exists():
        files["test"] = official
    parts = {part: _read(path) for part, path in files.items()}
    channels = {part: len(each.signals[0]) for part, each in parts.items()}
    if len(set(channels.values())) > 1:
        raise InvalidTaskError(
            f"the files of {name.text} have different numbers of channels: {channels}"
        )
    lengths = [signal.shape[1] for each in parts.values() for signal in each.signals]
    length = _length(name)
    arrays: dict[str, Arrays] = {}
    for part, each in parts.items():
        signals = [
            _padded(signal, max(lengths)) if length is None else _resampled(signal, length)
            for signal in each.signals
        ]
        arrays[part] = np.stack(signals), labels_of_texts(each.labels)
    return task_of_arrays(
        name.text,
        arrays["train"],
        arrays.get("test"),
        arrays.get("validation"),
        kind="signal",
        channel_place="first",
        notes=_notes(files, lengths, length),
    )


def _length(name: TaskName) -> int | None:
    """Return the number of values to resample to; None to leave signals as they are."""
    text = name.options.get("length")
    if text is None or text == "pad":
        return None
    if not (text.isascii() and text.isdigit() and 2 <= int(text) <= _LONGEST):
        raise InvalidTaskError(
            f"length must be pad or a number of values from 2 to {_LONGEST}, not {text!r}"
        )
    return int(text)


def _notes(files: dict[str, Path], lengths: Sequence[int], length: int | None) -> list[str]:
    """Return what was done to the signals, and where the test part came from."""
    notes = [f"the test part is {files['test'].name}"] if "test" in files else []
    least, most = min(lengths), max(lengths)
    of = f"signals of {least} to {most} values" if least < most else f"signals of {most} values"
    if length is not None:
        notes.append(f"{of} were resampled to {length} by linear interpolation")
    elif least < most:
        notes.append(
            f"{of} were padded with zeros at their end to {most}; length=N in the task name "
            "resamples them to N values instead"
        )
    return notes


def _padded(signal: np.ndarray, length: int) -> np.ndarray:
    """Return a signal `[C, L]` with zeros at its end: `[C, length]`."""
    return np.pad(signal, ((0, 0), (0, length - signal.shape[1])))


def _resampled(signal: np.ndarray, length: int) -> np.ndarray:
    """Return a signal `[C, L]` at equally spaced positions between its ends: `[C, length]`."""
    positions = np.linspace(0, signal.shape[1] - 1, length)
    given = np.arange(signal.shape[1])
    return np.stack([np.interp(positions, given, channel) for channel in signal])


def _read(path: Path) -> _Signals:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InvalidTaskError(f"there is no file {path}") from None
    except OSError as error:
        raise InvalidTaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidTaskError(f"{path} is not a .ts file: it is not text in UTF-8") from error
    start = _check_header(path, lines)
    signals: list[np.ndarray] = []
    labels: list[str] = []
    for number, line in enumerate(lines[start:], start + 1):
        if not line.strip() or line.startswith("#"):
            continue
        *channels, label = line.split(":")
        where = f"line {number} of {path}"
        if not channels or not label.strip():
            raise InvalidTaskError(f"{where} must hold the values of a signal, a colon, a label")
        signals.append(_signal(where, channels))
        labels.append(label.strip())
        if len(signals[-1]) != len(signals[0]):
            raise InvalidTaskError(
                f"{where} has {len(signals[-1])} channels and the first signal {len(signals[0])}"
            )
    if not signals:
        raise InvalidTaskError(f"{path} has no samples")
    return _Signals(signals, labels)


def _check_header(path: Path, lines: Sequence[str]) -> int:
    """Return the number of lines up to and with `@data`, after checking what they say."""
    for number, line in enumerate(lines):
        key, _, value = line.strip().partition(" ")
        first = value.strip().lower().partition(" ")[0]
        match key.lower(), first:
            case "@data", _:
                return number + 1
            case "@timestamps", "true":
                raise InvalidTaskError(f"{path} has time stamps, which are not supported")
            case ("@classlabel", "false") | ("@targetlabel", "true"):
                raise InvalidTaskError(
                    f"{path} has no class labels: it is not a classification task"
                )
    raise InvalidTaskError(f"{path} is not a .ts file: it has no line @data")


def _signal(where: str, channels: Sequence[str]) -> np.ndarray:
    """Return the signal of a line: `[C, L]`, NaN where a value is missing."""
    rows = []
    for text in channels:
        try:
            rows.append([_value(value.strip()) for value in text.split(",")])
        except ValueError as error:
            raise InvalidTaskError(f"{where} has a value that is not a number: {error}") from None
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise InvalidTaskError(
            f"{where} has channels of {lengths[0]} and {lengths[-1]} values: the channels of a "
            "signal must have the same length"
        )
    return np.array(rows)


def _value(text: str) -> float:
    return np.nan if text.lower() in _MISSING else float(text)

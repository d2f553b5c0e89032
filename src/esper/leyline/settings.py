"""Settings declared as msgspec structs; TOML files and options are checked by the annotations.

A struct declares each setting once: its type, range (`msgspec.Meta`) or choices (`Literal`),
default and help text. A value that does not fit becomes one sentence that says what would fit.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import inspect

from esper.leyline.errors import EsperError
from esper.leyline.files.regular_files import open_regular
from esper.leyline.text.plain_text import short_repr

#: The largest integer that random generators accept as a seed and the store as a number.
LARGEST_INTEGER: Final = 2**63 - 1
LARGEST_FLOAT32: Final = 3.4028234663852886e38

Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_INTEGER)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_INTEGER)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=LARGEST_FLOAT32)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=LARGEST_FLOAT32)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class SettingError(EsperError, ValueError):
    """A settings file, or a setting in it, is invalid; the message is one clear sentence.

    Args:
        message: the sentence.
        setting: the setting that the sentence begins with; empty if it begins otherwise.
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class Setting(NamedTuple):
    """One setting, as its struct declares it."""

    name: str  # in files; also the command-line option, with hyphens
    attribute: str  # of the struct
    default: Any
    help: str  # empty where the struct has none
    choices: tuple[str, ...]  # empty where any value of the type is possible
    annotation: Any


@cache
def declared_settings(struct: type[msgspec.Struct]) -> dict[str, Setting]:
    """Return the settings that a struct declares, by name and in order."""
    return {
        field.encode_name: Setting(
            field.encode_name,
            field.name,
            field.default,
            _help_of(field.type),
            _choices_of(field.type),
            field.type,
        )
        for field in msgspec.structs.fields(struct)
    }


def checked_settings(struct: type[msgspec.Struct], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by attribute, converted to the types that the struct declares.

    Args:
        struct: the struct that declares the settings.
        values: values by name of setting.

    Raises:
        SettingError: a name is unknown, or a value does not fit.
    """
    settings = declared_settings(struct)
    checked = {}
    for name, value in values.items():
        if name not in settings:
            near = difflib.get_close_matches(str(name)[:80], settings, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(settings)}"
            raise SettingError(f"{short_repr(name)} is not a setting; {hint}")
        annotation = settings[name].annotation
        try:
            checked[settings[name].attribute] = msgspec.convert(value, annotation)
        except msgspec.ValidationError:
            choices = settings[name].choices
            expected = (
                f"one of {', '.join(choices)}"
                if choices
                else _expected(inspect.type_info(annotation), value)
            )
            message = f"{name} must be {expected}, not {short_repr(value)}"
            raise SettingError(message, name) from None
    return checked


def read_toml(path: Path, max_bytes: int) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        SettingError: it cannot be read, is longer than `max_bytes`, or is not TOML.
    """
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingError(f"cannot read the settings file {path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise SettingError(f"{path} is not a settings file: it is longer than {max_bytes} bytes")
    try:
        return tomllib.loads(data.decode())
    except RecursionError:
        raise SettingError(f"{path} is not valid TOML: its values are nested too deeply") from None
    except ValueError as error:  # includes numbers with thousands of digits
        raise SettingError(f"{path} is not valid TOML: {error}") from error


def _help_of(annotation: Any) -> str:
    if get_origin(annotation) is not Annotated:
        return ""
    texts = [meta.description for meta in get_args(annotation)[1:] if meta.description]
    return texts[-1] if texts else ""


def _choices_of(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _expected(kind: inspect.Type, value: object) -> str:
    """Return what a setting must be, for a value that it cannot be."""
    match kind:
        case inspect.Metadata():
            return _expected(kind.type, value)
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "a string"
        case inspect.VarTupleType():
            return "a list of strings"
        case inspect.IntType():
            is_number = type(value) is int
            return _range(kind, value) if is_number else "a whole number"
        case inspect.FloatType():
            if not isinstance(value, int | float) or isinstance(value, bool):
                return "a number"
            return _range(kind, value) if _is_finite(value) else "a finite number"
    raise TypeError(f"no words for {kind}")


def _range(kind: inspect.IntType | inspect.FloatType, value: Any) -> str:
    """Return the limits of a number; the largest representable one only where it is exceeded."""
    most = kind.le
    if most in (LARGEST_INTEGER, LARGEST_FLOAT32):
        if most is not None and value > most:
            return f"at most {most}"
        return f"above {kind.gt:g}" if kind.gt is not None else f"at least {kind.ge:g}"
    return f"between {kind.ge:g} and {most}"


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False

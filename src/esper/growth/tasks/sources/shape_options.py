"""Options of task names that say how to read the shape of the samples."""

from typing import TypeVar

from esper.growth.tasks.arrays import CHANNEL_PLACES, KINDS, Kind
from esper.growth.tasks.task import ChannelAxis, InvalidTaskError
from esper.leyline.task_names import TaskName

_Choice = TypeVar("_Choice", bound=str)


def kind_of(name: TaskName) -> Kind | None:
    """Return the kind of samples in the name of a task, if given.

    Raises:
        InvalidTaskError: there is no such kind.
    """
    return _one_of(name, "kind", KINDS)


def channel_place_of(name: TaskName) -> ChannelAxis | None:
    """Return the place of channels in the name of a task, if given.

    Raises:
        InvalidTaskError: there is no such place.
    """
    return _one_of(name, "channels", CHANNEL_PLACES)


def _one_of(name: TaskName, option: str, choices: tuple[_Choice, ...]) -> _Choice | None:
    text = name.options.get(option)
    choice = next((choice for choice in choices if choice == text), None)
    if text is not None and choice is None:
        raise InvalidTaskError(f"{option} must be one of {', '.join(choices)}, not {text!r}")
    return choice

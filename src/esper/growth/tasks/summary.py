"""A summary of a task in a few lines: kind of samples, parts and classes."""

from esper.growth.tasks.samples import counted
from esper.growth.tasks.task import Task


def summary_lines(task: Task) -> list[str]:
    """Return the lines that are shown before training."""
    classes = counted(task.classes, "class", "classes")
    samples = sum(len(part) for part in (task.train, task.validation, task.test))
    return [
        f"{task.name}: {samples:,} {task.description or _shape(task)}; {classes}",
        f"{_parts(task)}; {largest_class(task)}",
        *(f"note: {note}" for note in task.notes),
    ]


def largest_class(task: Task) -> str:
    """Return the share of the largest class in the validation and test parts."""
    return (
        f"the largest class is {task.validation.largest_class:.3f} of validation and "
        f"{task.test.largest_class:.3f} of test"
    )


def _shape(task: Task) -> str:
    size = "x".join(map(str, task.input_shape[1:]))
    if task.vocabulary:
        return f"windows of {task.input_shape[0]} out of {task.symbols} characters"
    match len(task.input_shape):
        case 1:
            return f"vectors of {counted(task.input_shape[0], 'feature')}"
        case 2:
            what = f"signals of length {size}"
        case _:
            what = f"images of {size}"
    if task.channel_axis == "none":
        return what
    channels = counted(task.input_shape[0], "channel")
    return f"{what} with {channels}, channels {task.channel_axis}"


def _parts(task: Task) -> str:
    drawn = {
        part: " (drawn from the training part)" if part in task.drawn else ""
        for part in ("validation", "test")
    }
    return (
        f"{len(task.train):,} samples for training, {len(task.validation):,} for "
        f"validation{drawn['validation']}, {len(task.test):,} for test{drawn['test']}"
    )

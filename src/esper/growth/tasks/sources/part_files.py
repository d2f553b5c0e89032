"""The files that hold the parts of a task whose data lies in one file per part."""

from pathlib import Path

from esper.leyline.task_names import PARTS, TaskName


def files_of_parts(name: TaskName) -> dict[str, Path]:
    """Return the file of each part: the place of the task, and what its options name.

    A file that an option names without a folder lies in the folder of the first.
    """
    others = {part: name.options[part] for part in PARTS if part in name.options}
    folder = name.path.parent
    return {"train": name.path} | {part: folder / file for part, file in others.items()}

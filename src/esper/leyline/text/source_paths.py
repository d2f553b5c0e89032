"""Short paths of source files for messages."""

from pathlib import Path
from typing import Final

#: Folders of installed libraries; what follows is the path within a library.
_OF_LIBRARIES: Final = ("site-packages", "dist-packages")


def short_path(path: str) -> str:
    """Return a path relative to what it is in: an installed library, Esper, or the working folder.

    A path in none of them is returned unchanged.
    """
    parts = Path(path).parts
    for folder in _OF_LIBRARIES:
        if folder in parts[:-1]:
            last = len(parts) - 1 - parts[::-1].index(folder)
            return str(Path(*parts[last + 1 :]))
    for root in (Path(__file__).parents[3], Path.cwd()):
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    return path

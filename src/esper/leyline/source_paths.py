"""How a file of source is named to somebody who reads of it."""

from pathlib import Path


def short_path(path: str) -> str:
    """Return a path without what leads to the package, or to where the user is."""
    for root in (Path(__file__).parents[2], Path.cwd()):
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    return path

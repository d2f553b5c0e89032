"""Short paths of source files for messages."""

from pathlib import Path


def short_path(path: str) -> str:
    """Return a path relative to the package or the working directory, if it is in one of them."""
    for root in (Path(__file__).parents[3], Path.cwd()):
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    return path

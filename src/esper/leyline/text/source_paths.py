"""Short paths of source files for messages."""

from pathlib import Path


def short_path(path: str) -> str:
    """Return a path relative to the folder of packages or the working directory that it is in."""
    for root in (Path(__file__).parents[3], Path.cwd()):
        if Path(path).is_relative_to(root):
            return str(Path(path).relative_to(root))
    _, is_installed, inside = path.rpartition("/site-packages/")
    return inside if is_installed else path

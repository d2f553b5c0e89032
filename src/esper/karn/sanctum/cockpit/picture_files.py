"""Checks the file of an exported picture, before Textual is loaded."""

from pathlib import Path
from typing import Final

from esper.leyline.errors import EsperError

#: Supported file name suffixes.
PICTURE_SUFFIXES: Final = (".svg", ".html", ".txt")


class PictureError(EsperError, ValueError):
    """A picture cannot be written."""


def check_picture(path: Path) -> None:
    """Check the path of a picture.

    Raises:
        PictureError: the suffix is not one of `PICTURE_SUFFIXES`, or the folder does not exist.
    """
    if path.suffix not in PICTURE_SUFFIXES:
        kinds = ", ".join(PICTURE_SUFFIXES)
        raise PictureError(f"--export {path}: the file's name must end in one of {kinds}")
    if not path.absolute().parent.is_dir():
        raise PictureError(f"--export {path}: there is no folder {path.parent}")

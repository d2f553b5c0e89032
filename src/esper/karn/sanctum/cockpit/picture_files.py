"""The files that pictures of Sanctum are written to, checked before Textual is loaded."""

import errno
import os
from pathlib import Path
from typing import Final

from esper.leyline.errors import EsperError

#: Suffixes of what can be written.
PICTURE_SUFFIXES: Final = (".svg", ".html", ".txt")


class PictureError(EsperError, ValueError):
    """A picture that cannot be made; one clear sentence."""


def check_picture(path: Path) -> None:
    """Check where a picture is to be written.

    Raises:
        PictureError: the suffix is none of `PICTURE_SUFFIXES`, or the folder does not exist.
    """
    if path.suffix not in PICTURE_SUFFIXES:
        kinds = ", ".join(PICTURE_SUFFIXES)
        raise PictureError(f"{path} does not say what to write: end it in one of {kinds}")
    if not path.absolute().parent.is_dir():
        raise PictureError(f"cannot write {path}: {os.strerror(errno.ENOENT)}")

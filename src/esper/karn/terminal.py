"""What the terminal that this process is on can show."""

import os
import sys
from typing import Final, TextIO

#: One of each kind of sign that Sanctum and the reports use.
_SIGNS: Final = "●─▁⣿"


def is_screen() -> bool:
    """Return whether input and output are a terminal in which the cursor can be moved."""
    is_dumb = os.environ.get("TERM") == "dumb"
    return sys.stdin.isatty() and sys.stdout.isatty() and not is_dumb


def shows_signs(stream: TextIO | None) -> bool:
    """Return whether a stream takes signs beyond ASCII, as far as its encoding goes."""
    encoding = getattr(stream, "encoding", None)
    try:
        _SIGNS.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

"""Wrapped lines, with or without a label before them."""

import textwrap
from collections.abc import Sequence
from typing import Final

from rich.text import Text

from esper.karn.text.palette import Palette

_LABEL_WIDTH: Final = 11
_NARROWEST: Final = 8


def labelled(
    name: str, texts: Sequence[str], width: int, palette: Palette, style: str = ""
) -> list[Text]:
    """Return a label and its texts, each on a new line and wrapped to `width` cells."""
    lines = []
    label = name
    indent = max(_LABEL_WIDTH, len(name) + 1)
    for text in texts:
        room = max(_NARROWEST, width - indent)
        for part in textwrap.wrap(text, room, subsequent_indent="  "):
            line = Text(no_wrap=True).append(label.ljust(indent), palette.muted)
            lines.append(line.append(part, style or palette.ink))
            label = ""
    return lines


def wrapped(sentence: str, width: int, palette: Palette, style: str = "") -> list[Text]:
    """Return a sentence as lines of at most `width` cells, muted by default."""
    return [
        Text(line, style=style or palette.muted, no_wrap=True)
        for line in textwrap.wrap(sentence, max(_NARROWEST, width), subsequent_indent="  ")
    ]

"""Filters for every line of the screen: ASCII only, or without colours.

Without colours (NO_COLOR, https://no-color.org) only bold, dim and reverse are left. The greys of
the monochrome theme decide which of them a text gets.
"""

from functools import lru_cache
from typing import Final

from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from esper.karn.sanctum.drawing.ascii import segments_in_ascii

#: Of 255: a background at least this bright is reversed, and darker text is dimmed.
_FILL: Final = 0x48
_DIM: Final = 0xA0


class AsciiFilter(LineFilter):
    """Shows ASCII characters only."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return segments_in_ascii(segments)


class NoColourFilter(LineFilter):
    """Replaces colours by bold, dim and reverse."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            Segment(text, None if style is None else _without_colour(style), control)
            for text, style, control in segments
        ]


@lru_cache(maxsize=1024)
def _without_colour(style: Style) -> Style:
    ground, ink = _grey(style.bgcolor), _grey(style.color)
    is_filled = ground is not None and ground >= _FILL
    is_dim = ink is not None and ink < _DIM and not is_filled
    return style.without_color + Style(
        reverse=bool(style.reverse) != is_filled, dim=bool(style.dim) or is_dim
    )


def _grey(colour: RichColor | None) -> int | None:
    if colour is None or colour.is_default:
        return None
    return colour.get_truecolor().green  # equal to red and blue

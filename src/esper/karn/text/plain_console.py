"""The console that reports print to: what leaves it cannot act upon a terminal."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from esper.leyline.plain_text import printable


class PlainConsole(Console):
    """A console that replaces every control character and direction mark in what it is given.

    A subclass, since Rich has no other place that every text passes. Its own escape sequences, for
    colours, are made after this.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield what a renderable consists of, with its text made printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else printable_segment(segment)


def printable_segment(segment: Segment) -> Segment:
    """Return a segment with its text made printable; the same one if it is."""
    text = printable(segment.text)
    return segment if text == segment.text else Segment(text, segment.style, segment.control)

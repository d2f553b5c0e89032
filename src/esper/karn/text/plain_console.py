"""The console of the reports: text from a store cannot control the terminal."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from esper.leyline.text.plain_text import printable


class PlainConsole(Console):
    """A console that replaces control characters and direction marks in every text.

    A subclass, because Rich has no other hook that every text passes. Rich adds its own escape
    sequences for colours afterwards.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable, with their text made printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else printable_segment(segment)


def printable_segment(segment: Segment) -> Segment:
    """Return a segment with its text made printable; the same segment if it already is."""
    text = printable(segment.text)
    return segment if text == segment.text else Segment(text, segment.style, segment.control)

"""A panel of lines, one of which is chosen; the heading stays visible."""

from collections.abc import Hashable, Sequence
from typing import ClassVar, Final

from rich.color import Color, blend_rgb
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.message import Message
from textual.strip import Strip

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.text.palette import Palette

#: Marks the chosen line; its background colour marks it too.
CURSOR: Final = "▸"
#: Share of the faint colour in the background of the chosen line.
_TINT: Final = 0.45
_STEP: Final = "Choose the previous or next line"
_PAGE: Final = "Move the choice up or down by a page"
_ENDS: Final = "Choose the first or the last line"


def chosen_style(palette: Palette) -> str:
    """Return the style of the chosen line: a background on which all other colours are readable."""
    ground, faint = Color.parse(palette.ground), Color.parse(palette.faint)
    if ground.triplet is None or faint.triplet is None:
        return "bold"  # the terminal's own colours cannot be mixed
    return f"on {blend_rgb(ground.triplet, faint.triplet, _TINT).hex}"


class ChoicePanel(Panel):
    """Shows lines with keys, and posts `Chosen` when another line is chosen.

    Subclasses return the keys in `keys` and the lines in `rows`. The choice is kept by its key, so
    that it stays with its line while others come and go.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "step(-1)", show=False, tooltip=_STEP),
        Binding("down", "step(1)", show=False, tooltip=_STEP),
        Binding("pageup", "page(-1)", show=False, tooltip=_PAGE),
        Binding("pagedown", "page(1)", show=False, tooltip=_PAGE),
        Binding("home", "end(0)", show=False, tooltip=_ENDS),
        Binding("end", "end(-1)", show=False, tooltip=_ENDS),
    ]

    HEADINGS: ClassVar[int] = 1  # heading lines of `rows`

    class Chosen(Message):
        """Another line was chosen."""

        def __init__(self, panel: "ChoicePanel", key: Hashable) -> None:
            super().__init__()
            self.panel = panel
            self.key = key

        @property
        def control(self) -> "ChoicePanel":
            """The panel in which it was chosen."""
            return self.panel

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._keys: Sequence[Hashable] = ()
        self._key: Hashable | None = None  # None: the first line

    def keys(self, view: View) -> Sequence[Hashable]:
        """Return the keys in the order of their lines."""
        raise NotImplementedError

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        """Return the headings, and a line for each key; the first cell is for the cursor."""
        raise NotImplementedError

    @property
    def index(self) -> int:
        """The index of the chosen line among the keys; 0 if there are none."""
        return self._keys.index(self._key) if self._key in self._keys else 0

    @property
    def chosen(self) -> Hashable | None:
        """The key of the chosen line; None if there are no lines."""
        return self._keys[self.index] if self._keys else None

    def show(self, view: View) -> None:
        """Show another view of the run; the choice stays if its line still exists."""
        before = self.chosen
        self._keys = self.keys(view)
        super().show(view)
        if self.chosen != before:
            self.post_message(self.Chosen(self, self.chosen))

    def choose(self, key: Hashable) -> None:
        """Choose the line of a key; does nothing if there is no such line."""
        if key not in self._keys or key == self._key:
            return
        self._key = key
        self.redraw()
        self._keep_visible()
        self.post_message(self.Chosen(self, key))

    def lines(self, view: View, width: int, height: int, palette: Palette) -> list[Text]:
        """Return the lines, with the chosen one highlighted."""
        lines = self.rows(view, width, palette)
        if self._keys:
            line = lines[self.HEADINGS + self.index]
            rest = line[1:]
            lines[self.HEADINGS + self.index] = chosen = Text(no_wrap=True)
            chosen.append(CURSOR, f"bold {palette.accent}").append_text(rest)
            chosen.truncate(width, overflow="ellipsis", pad=True)
            chosen.stylize_before(chosen_style(palette))
        return lines

    def render_line(self, y: int) -> Strip:
        """Return one visible line; the headings do not scroll."""
        return super().render_line(y if y >= self.HEADINGS else y - self.scroll_offset.y)

    def _keep_visible(self) -> None:
        line = self.HEADINGS + self.index
        top, height = self.scroll_offset.y, self.scrollable_content_region.height
        if line < top + self.HEADINGS:
            self.scroll_to(y=line - self.HEADINGS, animate=False)
        elif line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False)

    def on_resize(self) -> None:
        """Draw again for the new size, and keep the choice visible."""
        super().on_resize()
        self._keep_visible()

    def on_click(self, event: Click) -> None:
        """Choose the clicked line."""
        place = event.get_content_offset(self)
        if place is None or place.y < self.HEADINGS:
            return
        index = place.y + self.scroll_offset.y - self.HEADINGS
        if index < len(self._keys):
            self.choose(self._keys[index])
            if event.chain == 2:
                self.open_chosen()

    def open_chosen(self) -> None:
        """Open the chosen line, after a double click; does nothing by default."""

    def action_step(self, by: int) -> None:
        """Move the choice down by a number of lines."""
        if self._keys:
            self.choose(self._keys[min(len(self._keys) - 1, max(0, self.index + by))])

    def action_page(self, by: int) -> None:
        """Move the choice down by a number of pages."""
        height = self.scrollable_content_region.height - self.HEADINGS
        self.action_step(by * max(1, height - 1))

    def action_end(self, index: int) -> None:
        """Choose the first line, or the last."""
        if self._keys:
            self.choose(self._keys[index])

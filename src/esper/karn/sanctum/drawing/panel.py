"""The base widget of all panels: draws a view with a pure render function."""

import math
import time
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from esper.karn.sanctum.drawing.themes import palette_of
from esper.karn.sanctum.fold.attention import Lamps
from esper.karn.sanctum.fold.view import View
from esper.karn.text.palette import Palette
from esper.leyline.text.plain_text import printable, printable_line

_SCROLL_LINE: Final = "Scroll the focused panel by a line"
_SCROLL_PAGE: Final = "Scroll it by a page"
_SCROLL_ALL: Final = "Scroll it to its start or end"


#: Shortest time between two drawings of a restless panel.
REST_SECONDS: Final = 0.9


class Panel(ScrollView, can_focus=True, inherit_bindings=False):
    """Draws the last view it was given, and repaints only the lines that changed.

    Subclasses return their text in `draw`, and in `part` what the text depends on.
    """

    #: Paths of snapshot fields, such as `training.entropy`, whose records its help lists, besides
    #: the records that name this panel.
    SHOWS: ClassVar[tuple[str, ...]] = ()
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "zoom", "Zoom", tooltip="Enlarge the focused panel, or restore it"),
        Binding("up", "scroll_up", show=False, tooltip=_SCROLL_LINE),
        Binding("down", "scroll_down", show=False, tooltip=_SCROLL_LINE),
        Binding("pageup", "page_up", show=False, tooltip=_SCROLL_PAGE),
        Binding("pagedown", "page_down", show=False, tooltip=_SCROLL_PAGE),
        Binding("home", "scroll_home", show=False, tooltip=_SCROLL_ALL),
        Binding("end", "scroll_end", show=False, tooltip=_SCROLL_ALL),
    ]

    #: Whether its content changes with every step of a busy run. Such a panel is drawn about once a
    #: second at most, because drawing is nearly all of the cockpit's CPU time.
    IS_RESTLESS: ClassVar[bool] = False
    #: Its content in one line: shown next to the title on the first visit, and in the help.
    ABOUT: ClassVar[str] = ""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._title = str(self.BORDER_TITLE or "")
        self._title_shown = self._title
        self._note = ""
        self._explains = False
        self._is_due = False  # the view differs from the one drawn
        self._drawn_at = -math.inf  # on the monotonic clock, in seconds
        self._is_woken = False  # the next view is drawn at once
        self._view: View | None = None
        self.lamps = Lamps()
        self._lines: list[Text] = []
        self._strips: dict[int, Strip] = {}  # of visible lines, by identity
        self._ground, self._width = Style(), 0  # background and width of the strips

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        """Return the text of the panel in `width` cells; it scrolls beyond `height` lines."""
        raise NotImplementedError

    def part(self, view: View) -> object:
        """Return the part of a view that `draw` depends on; if it is equal, nothing is drawn."""
        return view

    def show(self, view: View) -> None:
        """Show another view of the run."""
        before, self._view = self._view, view
        if before is None or self.part(view) != self.part(before):
            self._is_due = True
        if self._is_due and (self._is_woken or not self._may_rest(view, before)):
            self.redraw()
        self._is_woken = False

    def _may_rest(self, view: View, before: View | None) -> bool:
        """Return whether drawing can wait for the next view, which is certain to come."""
        is_followed = before is not None and view.position is None and before.position is None
        return (
            self.IS_RESTLESS
            and is_followed
            and time.monotonic() - self._drawn_at < REST_SECONDS
            and not view.status.is_over
        )

    def wake(self) -> None:
        """Draw the next view at once, even if the last one was drawn recently."""
        self._is_woken = True

    def show_lamps(self, lamps: Lamps) -> None:
        """Set how lights are shown; panels with lights override it and draw again."""
        self.lamps = lamps

    def lines(self, view: View, width: int, height: int, palette: Palette) -> list[Text]:
        """Return the text of `draw` as lines; a line that is the same object is not repainted."""
        return list(self.draw(view, width, height, palette).split("\n", allow_blank=True))

    def redraw(self) -> None:
        """Draw the last view again, at the current size and in the current colours."""
        region = self.scrollable_content_region
        if self._view is None or region.width < 1 or region.height < 1:
            return
        self._is_due, self._drawn_at = False, time.monotonic()
        lines = self.lines(self._view, region.width, region.height, palette_of(self.app.theme))
        before, self._lines = self._lines, lines
        changed = []
        for y in range(len(lines))[self.scroll_offset.y :][: region.height]:
            if y >= len(before) or not _are_same(lines[y], before[y]):
                changed.append(y)
            else:
                lines[y] = before[y]  # an equal line, so its strip is reused
        known = self._strips
        self._strips = {
            id(line): strip for line in lines if (strip := known.get(id(line))) is not None
        }
        size = Size(region.width, len(lines))
        if self.virtual_size != size:
            self._resize(size)
            self.refresh()
            return
        for y in changed:
            self.refresh_line(y)

    def _resize(self, size: Size) -> None:
        known = self.virtual_size
        if (
            self.show_vertical_scrollbar
            and size.width == known.width
            and size.height > known.height
        ):
            # Lines were added at the end. A new layout of the screen would cost several times as
            # much as drawing the log.
            self.set_reactive(Panel.virtual_size, size)
            self.vertical_scrollbar.window_virtual_size = size.height
        else:
            self.virtual_size = size

    @property
    def name_shown(self) -> str:
        """The panel's title without notes: "History of op"."""
        return self._title

    def retitle(self, title: str) -> None:
        """Give the panel another title."""
        self._title = printable_line(title)
        self._show_title()

    def note(self, text: str) -> None:
        """Show a text next to the panel's title; an empty text removes it."""
        self._note = printable_line(text)
        self._show_title()

    def explain(self, explains: bool) -> None:
        """Show or hide the `ABOUT` text next to the title."""
        self._explains = explains
        self._show_title()

    def _show_title(self) -> None:
        about = self.ABOUT if self._explains else ""
        title = " · ".join(part for part in (self._title, self._note, about) if part)
        if title != self._title_shown:
            self._title_shown = title
            self.border_title = Content(title)  # not markup, which a name in it could contain

    @property
    def text(self) -> str:
        """The whole text of the panel, including what is scrolled out of view."""
        return printable("\n".join(line.plain.rstrip() for line in self._lines))

    def _strip(self, line: Text) -> Strip:
        console = self.app.console
        if (shown := printable(line.plain)) != line.plain:
            line = line.copy()
            line.plain = shown  # of equal length, so styles keep their positions
        # Rich omits the style of the whole line for parts without a style.
        style = self._ground + console.get_style(line.style)
        segments = list(Segment.apply_style(line.render(console), style))
        missing = self._width - line.cell_len
        if missing > 0:
            segments.append(Segment(" " * missing, self._ground))
        strip = Strip(segments, line.cell_len + max(0, missing))
        return strip if missing >= 0 else strip.crop(0, self._width)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Return the lines to paint."""
        # `rich_style` combines the styles of all ancestors, which is expensive per line.
        ground, width = self.rich_style, self.scrollable_content_region.width
        if (ground, width) != (self._ground, self._width):
            self._ground, self._width, self._strips = ground, width, {}
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """Return one visible line, with `y` counted from the panel's top."""
        index = y + self.scroll_offset.y
        if index >= len(self._lines):
            return Strip.blank(self._width, self._ground)
        line = self._lines[index]
        strip = self._strips.get(id(line))
        if strip is None:
            self._strips[id(line)] = strip = self._strip(line)
        return strip

    def on_resize(self) -> None:
        """Draw again for the new size."""
        self.redraw()

    def action_zoom(self) -> None:
        """Enlarge this panel to the whole screen, or restore it."""
        if self.screen.maximized is self:
            self.screen.minimize()
        else:
            self.screen.maximize(self, container=False)


def _are_same(line: Text, other: Text) -> bool:
    """Return whether two lines look the same; Rich's `==` ignores the style of the whole line."""
    return line is other or (line.style == other.style and line == other)

"""The closing screen: how a run ended, its score, and commands for what to do next."""

from typing import ClassVar, Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Click, Key, Resize
from textual.screen import ModalScreen
from textual.widgets import Static

from esper.karn.reports.run_end import SCORE_NAME, RunEnd
from esper.karn.sanctum.drawing.themes import palette_of
from esper.karn.sanctum.frame.banner import master_style, word_badge
from esper.karn.sanctum.frame.run_screen import too_small
from esper.karn.text.palette import Palette
from esper.leyline.text.plain_text import printable

_THIS_RUN: Final = "this run"
_BAR_WIDTH: Final = 28
_GAP: Final = 2
_FRAME: Final = 7  # border, padding and scrollbar
_LEAST_WIDTH: Final = 56  # of the texts in the border


def render_outcome(end: RunEnd, palette: Palette) -> Text:
    """Return how a run ended, its verdict and the reason."""
    text = Text(f"{printable(end.run)} {end.ending}\n", style=f"bold {palette.ink}")
    text.append_text(word_badge(end.word, master_style(end.word, palette)))
    if end.reason:
        text.append(f"  {printable(end.reason)}", palette.ink)
    if end.origin:
        text.append(f"\n{printable(end.origin)}", palette.ink)
    return text


def render_score(end: RunEnd, palette: Palette) -> Table:
    """Return a bar chart of the run's score and those of simple policies, lowest first."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    if end.score is None:
        return table
    scores = [*end.guides.items(), (_THIS_RUN, end.score)]
    scores.sort(key=lambda named: named[1])
    highest = max(scores[-1][1], 0.0) or 1.0
    for name, score in scores:
        is_own = name == _THIS_RUN
        bar = "█" * round(_BAR_WIDTH * max(0.0, score) / highest)
        style = f"bold {palette.accent}" if is_own else palette.muted
        fill = palette.accent if is_own else palette.faint
        table.add_row(Text(name, style), Text(f"{score:.3f}", style), Text(bar, fill))
    return table


def render_next_steps(end: RunEnd, palette: Palette) -> Table:
    """Return a row for each next step: its purpose and its command."""
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for step in end.next_steps:
        table.add_row(Text(step.purpose, palette.muted), Text(printable(step.command), palette.ink))
    return table


def _width(end: RunEnd) -> int:
    """Return the width in cells at which nothing wraps; the terminal may be narrower."""
    purpose = max(len(step.purpose) for step in end.next_steps)
    widths = [_GAP + purpose + cell_len(printable(step.command)) for step in end.next_steps]
    widths += [_LEAST_WIDTH, len(end.word) + 6 + cell_len(printable(end.reason))]
    widths.append(cell_len(printable(end.origin)))
    return max(widths) + _FRAME


class ClosingScreen(ModalScreen[str | None]):
    """Shows how a run ended; returns the key that closed it, if that key has another action.

    A key without a binding here closes it, and the screen below then handles the key.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,z,ctrl+c", "close", "Close", tooltip="Close this screen"),
        Binding("y", "copy", "Copy", tooltip="Copy the commands"),
    ]

    def __init__(self, end: RunEnd) -> None:
        super().__init__()
        self._end = end
        self._was_small = True

    def compose(self) -> ComposeResult:
        """Yield the outcome, the score and the commands; it scrolls where it does not fit."""
        palette = palette_of(self.app.theme)
        end = self._end
        with VerticalScroll(id="closing") as dialog:
            dialog.styles.width = _width(end)
            dialog.border_title = "How it ended"
            dialog.border_subtitle = "esc closes   z opens it again   y copies the commands"
            yield Static(render_outcome(end, palette), classes="part")
            if end.score is not None:
                title = f"{SCORE_NAME}, compared with simple policies" if end.guides else SCORE_NAME
                yield Static(title, classes="title")
                yield Static(render_score(end, palette), classes="part")
            yield Static("what to do next", classes="title")
            yield Static(render_next_steps(end, palette))

    def action_close(self) -> None:
        """Return to the screen below."""
        self.dismiss(None)

    def action_copy(self) -> None:
        """Copy the commands to the clipboard of the terminal."""
        steps = self._end.next_steps
        self.app.copy_to_clipboard("".join(f"{step.command}\n" for step in steps))
        self.app.notify(f"copied {len(steps)} commands", markup=False)

    def on_key(self, event: Key) -> None:
        """Close on a key without a binding here, and return the key."""
        if event.key not in self.active_bindings:
            event.stop()
            self.dismiss(event.key)

    def on_resize(self, event: Resize) -> None:
        """Close when the terminal becomes too small for a whole screen."""
        is_small = too_small(event.size)
        if is_small and not self._was_small:
            self.dismiss(None)
        self._was_small = is_small

    def on_click(self, event: Click) -> None:
        """Close on a click outside."""
        if event.widget is self:
            self.dismiss(None)

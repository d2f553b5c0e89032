"""The time bar: which update of the run is shown, of how many, and whether it plays."""

from typing import ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import MouseDown, MouseMove, MouseUp
from textual.message import Message

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.text.palette import DARK, Palette

_LABEL_WIDTH: Final = 9
_PLAYING: Final = "▶"
_PAUSED: Final = "‖"


def shown_update(view: View) -> int:
    """Return the last update that is part of what is shown."""
    return view.snapshot.run.update if view.position is None else view.position.update


def updates_of(view: View) -> int:
    """Return the number of updates that the run has now."""
    return view.snapshot.run.update if view.position is None else view.position.updates


def _counter(view: View, speed: int) -> str:
    total = str(updates_of(view))
    at = str(shown_update(view)).rjust(len(total))
    return f" {at}/{total} {speed}×".ljust(len(total) * 2 + 6)


def track(view: View, width: int, speed: int) -> tuple[int, int]:
    """Return the first cell of the track in a bar of `width` cells, and how many cells it has."""
    return _LABEL_WIDTH, max(1, width - _LABEL_WIDTH - len(_counter(view, speed)))


def update_at(view: View, cell: int, width: int, speed: int) -> int | None:
    """Return the update of a cell of the bar; None for its last cell, which means now."""
    start, length = track(view, width, speed)
    place = min(max(cell - start, 0), length - 1)
    if place == length - 1:
        return None
    updates = updates_of(view)
    return min(updates, 1 + place * max(0, updates - 1) // max(1, length - 1))


def render_time_bar(view: View, width: int, speed: int = 1, palette: Palette = DARK) -> Text:
    """Return one line of `width` cells.

    Args:
        view: what is shown.
        width: in cells.
        speed: playing speed, updates per second.
        palette: the colours to choose from.
    """
    position = view.position
    speed = (position and position.speed) or speed
    if position is None:
        label, style = " NOW", f"bold {palette.muted}"
    else:
        sign = _PLAYING if position.speed else _PAUSED
        label, style = f" {sign} PAST ", f"bold {palette.on_alert} on {palette.accent}"
    line = Text(no_wrap=True).append(label, style)
    line.append(" " * (_LABEL_WIDTH - line.cell_len))
    _, length = track(view, width, speed)
    updates = updates_of(view)
    share = 1.0 if updates < 2 else (shown_update(view) - 1) / (updates - 1)
    knob = length - 1 if position is None else round(min(max(share, 0.0), 1.0) * (length - 1))
    line.append("━" * knob, palette.curve)
    line.append("┃", f"bold {palette.accent}")
    line.append("─" * (length - 1 - knob), palette.faint)
    line.append(_counter(view, speed), palette.muted if position is None else palette.ink)
    line.truncate(width)
    return line


class TimeBar(Panel, inherit_bindings=False):
    """Shows the moment, and jumps to a moment by click or drag."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "app.step(-1)", show=False, tooltip="Back by one update"),
        Binding("right", "app.step(1)", show=False, tooltip="Forward by one update"),
        Binding("home", "app.jump(1)", show=False, tooltip="To the first update"),
        Binding("end", "app.now", show=False, tooltip="Back to now"),
    ]

    SHOWS: ClassVar[tuple[str, ...]] = ("run.update",)
    BORDER_TITLE = "Time"  # not drawn: the name in the help

    class Jumped(Message):
        """A moment was chosen with the mouse; None is now."""

        def __init__(self, update: int | None) -> None:
            super().__init__()
            self.update = update

    def __init__(self, speed: int = 1, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.speed = speed  # updates per second

    def part(self, view: View) -> object:
        return view.position, view.snapshot.run.update

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_time_bar(view, width, self.speed, palette)

    def on_mouse_down(self, event: MouseDown) -> None:
        """Jump to the mouse position, and follow it while the button is held."""
        self.capture_mouse()
        self._jump(event.x)

    def on_mouse_move(self, event: MouseMove) -> None:
        """Follow the mouse."""
        if self.app.mouse_captured is self:
            self._jump(event.x)

    def on_mouse_up(self, event: MouseUp) -> None:
        """Let go."""
        self.release_mouse()

    def _jump(self, cell: int) -> None:
        if self._view is not None and updates_of(self._view):
            width = self.scrollable_content_region.width
            self.post_message(self.Jumped(update_at(self._view, cell, width, self.speed)))

"""The last line of a screen: the other screens, and the keys that work now."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.segment import Segment
from textual.events import Click
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from esper.karn.sanctum.drawing.themes import palette_of
from esper.karn.text.palette import Palette

_GAP: Final = 2
_ALWAYS: Final = ("question_mark", "q")  # shown directly after the screens
ACKNOWLEDGE: Final = ("a", "A")
NOW: Final = ("n",)
END: Final = ("z",)


@dataclass(frozen=True)
class KeyHint:
    """A key as the line shows it."""

    key: str  # as Textual names it
    shown: str
    meaning: str
    is_current: bool = False  # it opens the screen that is shown


def hints_of(screen: Screen[object]) -> list[KeyHint]:
    """Return the keys of a screen whose bindings are shown, the keys of the screens first."""
    hints = [
        KeyHint(
            active.binding.key,
            screen.app.get_key_display(active.binding),
            active.binding.description,
            is_current=active.binding.description == screen.app.current_mode,
        )
        for active in screen.active_bindings.values()
        if active.binding.show and active.enabled
    ]
    first_of_each = {hint.meaning: hint for hint in reversed(hints)}
    return sorted(first_of_each.values(), key=_rank)


def _rank(hint: KeyHint) -> tuple[int, str]:
    if hint.key.isdecimal():
        return 0, hint.key
    return (1, str(_ALWAYS.index(hint.key))) if hint.key in _ALWAYS else (2, hint.meaning)


def fitting(
    hints: Sequence[KeyHint], width: int, urgent: Collection[str] = ()
) -> list[tuple[int, KeyHint]]:
    """Return the first hints that fit whole in `width` cells, each with its first cell.

    If the `urgent` keys do not all fit, they move directly after the screens, and then all hints
    move closer together.
    """
    wanted = {hint.key for hint in hints} & set(urgent)
    urgent_first = sorted(
        hints, key=lambda hint: (not hint.key.isdecimal(), hint.key not in urgent)
    )
    for order, gap in ((hints, _GAP), (urgent_first, _GAP), (urgent_first, 1)):
        placed = _placed(order, width, gap)
        if wanted <= {hint.key for _, hint in placed}:
            break
    return placed


def _placed(hints: Iterable[KeyHint], width: int, gap: int) -> list[tuple[int, KeyHint]]:
    placed = []
    x = 1
    for hint in hints:
        end = x + len(hint.shown) + 1 + len(hint.meaning)
        if end > width:
            break
        placed.append((x, hint))
        x = end + gap
    return placed


class KeyLine(Widget):
    """Shows the keys; a click on one presses it. Keys that do not fit are in the help."""

    def __init__(self) -> None:
        super().__init__()
        self._hints: Sequence[KeyHint] = ()
        self._urgent: Collection[str] = ()

    def on_mount(self) -> None:
        """Update the keys when the focus moves."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _screen: self._update())
        self._update()

    def set_urgent(self, keys: Collection[str]) -> None:
        """Set the keys that must stay visible."""
        if keys != self._urgent:
            self._urgent = keys
            self.refresh()

    def _update(self) -> None:
        hints = hints_of(self.screen)
        if hints != self._hints:
            self._hints = hints
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return the only line."""
        palette: Palette = palette_of(self.app.theme)
        console = self.app.console
        segments: list[Segment] = []
        x = 0
        for start, hint in fitting(self._hints, self.size.width, self._urgent):
            key = f"bold {palette.accent}"
            meaning = f"bold underline {palette.ink}" if hint.is_current else palette.muted
            segments += [
                Segment(" " * (start - x)),
                Segment(hint.shown, console.get_style(key)),
                Segment(" "),
                Segment(hint.meaning, console.get_style(meaning)),
            ]
            x = start + len(hint.shown) + 1 + len(hint.meaning)
        return Strip(segments).extend_cell_length(self.size.width).apply_style(self.rich_style)

    def on_click(self, event: Click) -> None:
        """Press the clicked key."""
        for start, hint in fitting(self._hints, self.size.width, self._urgent):
            if start <= event.x < start + len(hint.shown) + 1 + len(hint.meaning):
                self.app.simulate_key(hint.key)

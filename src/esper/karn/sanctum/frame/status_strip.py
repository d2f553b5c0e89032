"""The status strip: master status and run in one line, on all screens but the Overview."""

from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.attention import Lamps
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.banner import (
    HEALTHY_WORD,
    badge,
    master_word,
    reason,
    word_badge,
)
from esper.karn.sanctum.frame.run_header import moment_text
from esper.karn.sanctum.frame.run_times import elapsed_seconds, remaining_seconds
from esper.karn.text.figures import ABSENT, duration, span_text
from esper.karn.text.palette import DARK, Palette
from esper.karn.text.run_names import without_creation_time

_SEPARATOR: Final = "  "


def render_strip(
    view: View, width: int, palette: Palette = DARK, *, lamps: Lamps | None = None
) -> Text:
    """Return one line: the word and its first reason at the left, the run at the right."""
    run = view.snapshot.run
    is_test = lamps is not None and lamps.is_test
    word = master_word(view)
    left = word_badge("LAMP TEST", f"bold {palette.critical}") if is_test else badge(view, palette)
    shown = "all lights are shown as on, nothing is stored" if is_test else reason(view)
    name, rest = run.name or run.run_id or ABSENT, Text(no_wrap=True)
    rest.append(_SEPARATOR).append_text(moment_text(view, palette))
    if view.position is None:
        rest.append(f"{_SEPARATOR}update ", palette.muted).append(str(run.update), palette.ink)
    time = _time(view, palette)
    room = width - left.cell_len - len(shown) - 1 - len(without_creation_time(name)) - rest.cell_len
    # HEALTHY needs no reason.
    if time.cell_len < room or (word == HEALTHY_WORD and not is_test):
        rest.append_text(time)
    if left.cell_len + len(shown) + len(name) + rest.cell_len + 2 > width:
        name = without_creation_time(name)  # the reason matters more than the creation time
    right = Text(no_wrap=True).append(name, f"bold {palette.ink}").append_text(rest)
    # A long name is cut before the word is: the word must be visible on every screen.
    right.truncate(max(0, width - left.cell_len - 1), overflow="ellipsis")
    left.append(f" {shown}", palette.muted)
    left.truncate(max(0, width - right.cell_len - 1), overflow="ellipsis", pad=True)
    left.append(" ").append_text(right)
    left.truncate(width, overflow="ellipsis")
    return left


def _time(view: View, palette: Palette) -> Text:
    """Return the remaining time, or else the elapsed time; nothing in a past moment."""
    line = Text(no_wrap=True)
    left, elapsed = remaining_seconds(view), elapsed_seconds(view)
    if view.position is not None or elapsed is None:
        return line
    name, shown = ("elapsed", duration(elapsed)) if left is None else ("left", span_text(left))
    return line.append(f"{_SEPARATOR}{name} ", palette.muted).append(shown, palette.ink)


class StatusStrip(Panel, can_focus=False):
    """Shows the verdict on the run and the run's name."""

    def part(self, view: View) -> object:
        run, status = view.snapshot.run, moment_text(view, DARK).plain
        identity = run.name, run.run_id, run.update
        return master_word(view), reason(view), *identity, status, _time(view, DARK).plain

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_strip(view, width, palette, lamps=self.lamps)

    async def on_click(self) -> None:
        """Show all reasons."""
        await self.run_action("app.why")

    def show_lamps(self, lamps: Lamps) -> None:
        """Show a lamp test, also on screens that have no lights."""
        changed = lamps.is_test != self.lamps.is_test
        super().show_lamps(lamps)
        if changed:
            self.redraw()

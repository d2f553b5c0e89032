"""The master status: one word for the whole run, readable from across the room."""

import re
import textwrap
from typing import Final

from rich.text import Text

from esper.karn.liveness import StatusKind
from esper.karn.sanctum.attention import lit_lights
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.big_words import big_word
from esper.karn.sanctum.widgets.palette import DARK, Palette
from esper.karn.sanctum.widgets.panel import Panel
from esper.leyline.health import Level

_WORDS: Final = {
    Level.OK: "HEALTHY",
    Level.NOTICE: "NOTICE",
    Level.WARNING: "WARNING",
    Level.CRITICAL: "CRITICAL",
}
#: There is nothing to judge by yet.
_BEFORE: Final = (StatusKind.WAITING, StatusKind.STARTING)
NO_DATA: Final = "NO DATA"
_MARGIN: Final = 1
_NAMED: Final = 2  # heads; of more, their number is told
_NARROWEST_REASON: Final = 20
_UNBROKEN: Final = "\N{NO-BREAK SPACE}"
#: Is not torn apart where a line ends.
_UPDATE: Final = re.compile(r"(update) (?=\d)")


def master_word(view: View) -> str:
    """Return the word for a run: its verdict's, unless there is nothing to judge by."""
    if view.verdict.level == Level.CRITICAL:
        return _WORDS[Level.CRITICAL]
    if view.error is not None:
        return NO_DATA
    if view.status.kind in _BEFORE:
        return str(view.status.kind)
    return _WORDS[view.verdict.level]


def reasons(view: View) -> tuple[str, ...]:
    """Return why the word is what it is: the gravest reason first, and at least one."""
    if view.verdict.level != Level.CRITICAL:
        if view.error is not None:
            return ("the run cannot be read",)
        if view.status.kind in _BEFORE:
            return (view.status.sentence,)
    told = view.verdict.reasons or ("nothing out of the ordinary",)
    return told if view.position is None else (f"PAST: {_lit_since(view)}{told[0]}", *told[1:])


def _lit_since(view: View) -> str:
    """Return which heads have lit after the moment that is shown; nothing if none has."""
    assert view.position is not None
    then = lit_lights(view.snapshot.tamiyo)
    since = list(
        dict.fromkeys(head for head, light in view.position.lit_now if (head, light) not in then)
    )
    if not since:
        return ""
    who = ", ".join(since) if len(since) <= _NAMED else f"{len(since)} heads"
    return f"lit by now: {who}; then: "


def reason(view: View) -> str:
    """Return why the word is what it is, in a few words."""
    return reasons(view)[0] + _others(view)


def _others(view: View) -> str:
    others = len(reasons(view)) - 1
    return f" (+{others} more)" if others else ""


def master_style(word: str, palette: Palette, *, is_past: bool = False) -> str:
    """Return how the word is written: only an alert is filled with its colour.

    That a run was healthy once does not look like a run that is.
    """
    return {
        "HEALTHY": f"bold {palette.muted if is_past else palette.good}",
        "NOTICE": f"bold {palette.accent}",
        "WARNING": f"bold {palette.on_alert} on {palette.warning}",
        NO_DATA: f"bold {palette.on_alert} on {palette.warning}",
        "CRITICAL": f"bold {palette.on_alert} on {palette.critical}",
    }.get(word, f"bold {palette.muted}")


def render_master(view: View, width: int, height: int, palette: Palette = DARK) -> Text:
    """Return the word and its first reason: on one line, or in large letters from 3 lines on."""
    word = master_word(view)
    style = master_style(word, palette, is_past=view.position is not None)
    top, bottom = big_word(word)
    if height < 3 or len(top) + 2 * _MARGIN > width:
        line = Text(no_wrap=True).append(f" ● {word} ", style)
        line.append(f"  {reason(view)}", palette.ink)
        line.truncate(width, overflow="ellipsis")
        return line
    said = textwrap.wrap(
        _UPDATE.sub(rf"\1{_UNBROKEN}", f"● {reasons(view)[0]}")
        + _others(view).replace(" ", _UNBROKEN),
        width - 2 * _MARGIN,
        max_lines=max(1, height - 3),
        placeholder=f"…{_others(view)}",
        subsequent_indent="  ",
    )
    said = [line.replace(_UNBROKEN, " ") for line in said]
    rows = [*([""] if height > 3 else []), top, bottom, *said]
    rows += [""] * (height - len(rows))
    lines = [Text(no_wrap=True).append(f"{'':{_MARGIN}}{row}".ljust(width), style) for row in rows]
    return Text("\n", no_wrap=True).join(lines)


def render_reasons(view: View, width: int, palette: Palette = DARK) -> Text:
    """Return the word and every reason for it, each on a line of its own, or on more."""
    word = master_word(view)
    text = Text(no_wrap=True).append(
        f" ● {word} ", master_style(word, palette, is_past=view.position is not None)
    )
    lead = text.cell_len + 2
    room = max(_NARROWEST_REASON, width - lead)
    lines = [line for one in reasons(view) for line in textwrap.wrap(one, room)]
    return text.append("  " + f"\n{'':{lead}}".join(lines), palette.ink)


class MasterStatus(Panel, can_focus=False):
    """Shows the verdict on the run."""

    def part(self, view: View) -> object:
        return master_word(view), reason(view), view.position is None

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_master(view, width, height, palette)

    async def on_click(self) -> None:
        """Tell all reasons."""
        await self.run_action("app.why")

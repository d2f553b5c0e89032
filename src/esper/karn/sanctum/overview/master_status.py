"""The master status: one word for the whole run, in large letters."""

import re
import textwrap
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.big_words import big_word
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.banner import (
    badge,
    further_reasons,
    master_style,
    master_word,
    reason,
    reasons,
)
from esper.karn.text.light_signs import LIT
from esper.karn.text.palette import DARK, Palette

_MARGIN: Final = 1
_NARROWEST_REASON: Final = 20
_UNBROKEN: Final = "\N{NO-BREAK SPACE}"
#: A line must not break before the number.
_UPDATE: Final = re.compile(r"(update) (?=\d)")


def render_master(view: View, width: int, height: int, palette: Palette = DARK) -> Text:
    """Return the word and its first reason, with 3 or more lines in large letters."""
    word = master_word(view)
    style = master_style(word, palette, is_past=view.position is not None)
    top, bottom = big_word(word)
    if height < 3 or len(top) + 2 * _MARGIN > width:
        line = badge(view, palette)
        line.append(f"  {reason(view)}", palette.ink)
        line.truncate(width, overflow="ellipsis")
        return line
    wrapped = textwrap.wrap(
        _UPDATE.sub(rf"\1{_UNBROKEN}", f"{LIT} {reasons(view)[0]}")
        + further_reasons(view).replace(" ", _UNBROKEN),
        width - 2 * _MARGIN,
        max_lines=max(1, height - 3),
        placeholder=f"…{further_reasons(view)}",
        subsequent_indent="  ",
    )
    wrapped = [line.replace(_UNBROKEN, " ") for line in wrapped]
    rows = [*([""] if height > 3 else []), top, bottom, *wrapped]
    rows += [""] * (height - len(rows))
    lines = [Text(no_wrap=True).append(f"{'':{_MARGIN}}{row}".ljust(width), style) for row in rows]
    return Text("\n", no_wrap=True).join(lines)


def render_reasons(view: View, width: int, palette: Palette = DARK) -> Text:
    """Return the word and every reason for it, each on a new line."""
    text = badge(view, palette)
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
        """Show all reasons."""
        await self.run_action("app.why")

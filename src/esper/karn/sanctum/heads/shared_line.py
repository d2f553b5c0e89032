"""One line above the list of a watched run: what is always in sight, however long the list."""

from typing import ClassVar

from rich.text import Text

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.attention import LIGHT_WORDS, lit_lights
from esper.karn.sanctum.fold.view import View
from esper.karn.text.columns import fitted
from esper.karn.text.light_signs import LIT, UNKNOWN, UNLIT
from esper.karn.text.palette import DARK, Palette
from esper.leyline.telemetry import SHARED, STALLED_UPDATES
from esper.leyline.text.plurals import counted


def render_shared_line(view: View, width: int, palette: Palette = DARK) -> Text:
    """Return the lights of the shared part, "stalled", and the number of lit heads and groups."""
    tamiyo, training = view.snapshot.tamiyo, view.snapshot.training
    line = Text("shared", style=f"bold {palette.ink}", no_wrap=True)
    line = Text(no_wrap=True).append_text(line)
    for kind, word in LIGHT_WORDS.items():
        is_lit = tamiyo.latch(kind).get(SHARED, False)
        is_now = tamiyo.active(kind).get(SHARED, False)
        line.append(f"  {word} ", palette.muted)
        line.append_text(_light(view, palette, is_lit=is_lit, is_now=is_now))
    stalled = Text("stalled ", style=f"bold {palette.ink}", no_wrap=True)
    is_now = training.still_updates >= STALLED_UPDATES
    stalled.append_text(_light(view, palette, is_lit=training.stalled_latch, is_now=is_now))
    lit = {head for head, _ in lit_lights(tamiyo)} - tamiyo.group_inf_latch.keys()
    heads = len(tamiyo.head_inf_latch)
    groups = sum(kind == "group" for kind in view.snapshot.run.head_kinds.values())
    named = counted(heads - groups, "head")
    if groups:
        named += f" and {counted(groups, 'group')}"
    number = Text(f"{len(lit)} of {named} lit", style=palette.muted)
    if lit:
        number.stylize(f"bold {palette.critical}", 0, len(str(len(lit))))
    return fitted(line, [stalled, number], width, "    ")


def _light(view: View, palette: Palette, *, is_lit: bool, is_now: bool) -> Text:
    if is_lit:
        return Text(f"{LIT} now" if is_now else LIT, style=f"bold {palette.critical}")
    if view.doubt.lights is not None:
        return Text(UNKNOWN, style=f"bold {palette.warning}")
    return Text(UNLIT, style=palette.faint)


class SharedLine(Panel, can_focus=False):
    """Shows the lights of a watched run that belong to no head or group."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "tamiyo.group_inf_latch",
        "tamiyo.group_nan_latch",
        "training.stalled_latch",
    )

    def part(self, view: View) -> object:
        training = view.snapshot.training
        stalled = training.stalled_latch, training.still_updates >= STALLED_UPDATES
        return view.snapshot.tamiyo, view.doubt, stalled

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_shared_line(view, width, palette)

"""The lights of a watched run: those that are lit, then the shared part, heads and groups."""

import re
from collections.abc import Container, Iterable, Sequence
from itertools import groupby
from typing import ClassVar, Final

from rich.text import Text

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.attention import (
    LIGHT_WORDS,
    STALLED_LIGHT,
    Lamps,
    Light,
    acknowledged,
    light_of,
    lights_on,
    unacknowledged,
)
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import FirstSighting, TrainingState
from esper.karn.text.columns import flowed
from esper.karn.text.light_signs import FIRST_OUT_MARK, LIT, LIT_BY_DRILL, UNKNOWN, UNLIT
from esper.karn.text.palette import DARK, Palette
from esper.leyline.telemetry import GROUPS, STALLED_UPDATES
from esper.leyline.text.plurals import counted
from esper.leyline.text.rank_words import ranks_words
from esper.leyline.text.sighting_words import (
    NOT_REPRODUCED,
    PLANTED,
    joined,
    minibatch_words,
    place_words,
    quantity_words,
)

_STEADY: Final = Lamps(bright=False)
_SIGN_WIDTH: Final = 3
_WIDEST_NAME: Final = 24
#: Heads and groups up to this number are named one by one where there is room.
_NAMED: Final = 400
#: A dimension of an action, such as "action[12]".
_DIMENSION: Final = re.compile(r"(?P<name>.*)\[(?P<index>\d+)\]")
_STALLED_NAME: Final = "stalled"


def render_lights(
    view: View, width: int, height: int, palette: Palette = DARK, lamps: Lamps = _STEADY
) -> list[Text]:
    """Return a line for each lit light, first-out first, and the dark ones side by side.

    The shared part and "stalled" are always shown. Where heads and groups do not fit, those of one
    kind are counted; where lit lights do not fit, their number is shown.
    """
    if not view.snapshot.run.is_watched:
        return [Text("not known before the script calls esper.watch", style=palette.muted)]
    lit = _lit_lines(view, width, palette, lamps)
    dark = _dark_lines(view, width, height - len(lit), palette, lamps)
    room = max(1, height - len(dark))
    if len(lit) > room:
        more = counted(len(lit) - room + 1, "further light")
        lit = [*lit[: room - 1], Text(f"   {more}: 2 opens Heads", style=palette.critical)]
    lines = lit + dark
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def lines_wanted(view: View, width: int) -> int:
    """Return the number of lines that show everything, with heads and groups named."""
    lit = _lit_lines(view, width, DARK, _STEADY)
    return len(lit) + len(flowed(_entries(_dark_names(view), view, DARK, _STEADY), width))


def _lit_lines(view: View, width: int, palette: Palette, lamps: Lamps) -> list[Text]:
    tamiyo, seen = view.snapshot.tamiyo, acknowledged(view)
    firsts: dict[Light, FirstSighting] = {}
    for one in tamiyo.first:
        firsts.setdefault((one.head, light_of(one.kind)), one)
    on = lights_on(view.snapshot)
    ordered = [light for light in firsts if light in on]
    ordered += [light for light in on if light not in firsts]
    names = {light: _name(light) for light in ordered}
    name_width = min(_WIDEST_NAME, max(map(len, names.values()), default=0))
    lines = []
    for light in ordered:
        first = firsts.get(light)
        is_first = bool(tamiyo.first) and first is tamiyo.first[0]
        planted = tamiyo.planted(light[1]).get(light[0], False) if light != STALLED_LIGHT else False
        line = _sign(light, is_first, planted, seen, palette, lamps)
        line.append(f"{names[light].ljust(name_width)}  ", f"bold {palette.ink}")
        words, is_now = _what(view, light, first)
        line.append(words, f"bold {palette.critical}" if is_now else palette.ink)
        if is_now:
            line.append("  now", f"bold {palette.critical}")
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _what(view: View, light: Light, first: FirstSighting | None) -> tuple[str, bool]:
    """Return what a light reports, and whether it holds for the last update."""
    if light == STALLED_LIGHT:
        return stalled_words(view.snapshot.training)
    head, kind = light
    is_now = view.snapshot.tamiyo.active(kind).get(head, False)
    if first is None:
        return f"{LIGHT_WORDS[kind]}, place not known", is_now
    words = joined(
        f"{LIGHT_WORDS[kind]} in {quantity_words(first.quantity, first.part)}",
        "" if first.rank is None else ranks_words([first.rank]),
        place_words(first.phase, first.host, first.step),
        f"update {first.update}",
        minibatch_words(first.epoch, first.minibatch),
        "" if first.reproduced else NOT_REPRODUCED,
        PLANTED if first.planted else "",
    )
    return words, is_now


def stalled_words(training: TrainingState) -> tuple[str, bool]:
    """Return what the light "stalled" reports, and whether training is stalled now."""
    if training.still_updates >= STALLED_UPDATES:
        return (
            f"nothing was learnt for {training.still_updates} updates although steps were due",
            True,
        )
    return f"nothing was learnt from update {training.stalled_since} on; weights move again", False


def _sign(
    light: Light,
    is_first: bool,
    is_planted: bool,
    seen: Container[Light],
    palette: Palette,
    lamps: Lamps,
) -> Text:
    style = f"bold {palette.critical}"
    calls = lamps.bright and not lamps.is_test and light not in seen
    line = Text(no_wrap=True)
    line.append(LIT_BY_DRILL if is_planted else LIT, f"{style} reverse" if calls else style)
    return line.append((FIRST_OUT_MARK if is_first else "").ljust(_SIGN_WIDTH - 1), style)


def _name(light: Light) -> str:
    if light == STALLED_LIGHT:
        return _STALLED_NAME
    return light[0]


def _dark_names(view: View) -> list[str]:
    """Return what has no light on: the groups, "stalled", heads, then groups of parameters."""
    tamiyo = view.snapshot.tamiyo
    on = {head for head, light in lights_on(view.snapshot) if light != _STALLED_NAME}
    groups = [group for group in tamiyo.group_inf_latch if group not in on]
    stalled = [] if view.snapshot.training.stalled_latch else [_STALLED_NAME]
    heads = dict.fromkeys([*view.snapshot.run.heads, *tamiyo.head_inf_latch])
    return [*groups, *stalled, *(head for head in heads if head not in on)]


def _dark_lines(view: View, width: int, height: int, palette: Palette, lamps: Lamps) -> list[Text]:
    names = _dark_names(view)
    if len(names) <= _NAMED:
        lines = flowed(_entries(names, view, palette, lamps), width)
        if len(lines) <= max(1, height):
            return lines
    shorter = _joined_dimensions(names)
    if len(shorter) <= _NAMED:
        lines = flowed(_entries(shorter, view, palette, lamps), width)
        if len(lines) <= max(1, height):
            return lines
    return flowed(_entries(_counted(names, view), view, palette, lamps), width)


def _entries(names: Iterable[str], view: View, palette: Palette, lamps: Lamps) -> list[Text]:
    if lamps.is_test:
        sign, style = LIT, f"bold {palette.critical}"
    elif view.doubt.lights is not None:
        sign, style = UNKNOWN, f"bold {palette.warning}"
    else:
        sign, style = UNLIT, palette.faint
    return [
        Text(no_wrap=True).append(sign, style).append(f"  {name}", palette.muted) for name in names
    ]


def _joined_dimensions(names: Sequence[str]) -> list[str]:
    """Return names with neighbouring dimensions joined: "action[0–29]"."""
    found: list[str] = []
    for name, members in groupby(names, key=_without_index):
        several = list(members)
        first = _DIMENSION.fullmatch(several[0])
        last = _DIMENSION.fullmatch(several[-1])
        if len(several) > 2 and first is not None and last is not None:
            found.append(f"{name}[{first['index']}–{last['index']}]")
        else:
            found += several
    return found


def _without_index(name: str) -> str:
    found = _DIMENSION.fullmatch(name)
    return name if found is None else found["name"]


def _counted(names: Sequence[str], view: View) -> list[str]:
    """Return groups and "stalled" by name, and the numbers of heads and groups of parameters."""
    kinds = view.snapshot.run.head_kinds
    always = [name for name in names if name in GROUPS or name == _STALLED_NAME]
    others = [name for name in names if name not in always]
    groups = sum(kinds.get(name) == "group" for name in others)
    heads = _joined_dimensions([name for name in others if kinds.get(name) != "group"])
    if len(heads) > 4:
        heads = [counted(len(others) - groups, "head")]
    return [*always, *heads, *([counted(groups, "group")] if groups else [])]


class LightsPanel(Panel):
    """Shows the lights of a watched run: its heads, its groups, what they share, and "stalled"."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "tamiyo.head_inf_latch",
        "tamiyo.head_nan_latch",
        "tamiyo.group_inf_latch",
        "tamiyo.group_nan_latch",
        "tamiyo.first",
    )
    BORDER_TITLE = "Lights"
    ABOUT = "● has been Inf or NaN, ○ never; shared: what no single head owns"

    def part(self, view: View) -> object:
        snapshot = view.snapshot
        training = snapshot.training
        stalled = training.stalled_latch, training.stalled_since, training.still_updates
        run = snapshot.run
        shown = snapshot.tamiyo, run.heads, run.head_kinds, view.acknowledgements, view.doubt
        return *shown, *stalled

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        lines = render_lights(view, width, height, palette, self.lamps)
        return Text("\n", no_wrap=True).join(lines)

    def show(self, view: View) -> None:
        """Show another view of the run, and the number of lights not acknowledged."""
        super().show(view)
        waiting = len(unacknowledged(view))
        self.note(f"{counted(waiting, 'light')} not acknowledged: a one, A all" if waiting else "")

    def show_lamps(self, lamps: Lamps) -> None:
        """Show the lights in a phase of blinking, or in a lamp test."""
        changed = lamps != self.lamps
        super().show_lamps(lamps)
        if changed:
            self.redraw()

"""The action heads, one column each: figures with trends, and the Inf and NaN lights."""

import textwrap
from collections.abc import Container, Sequence
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.charts import sparkline
from esper.karn.sanctum.drawing.judgement import figure_style
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.attention import Lamps, Light, unacknowledged
from esper.karn.sanctum.fold.doubt import NO_DOUBT, Doubt
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import FirstSighting, SanctumSnapshot, TamiyoState
from esper.karn.sanctum.widgets.tamiyo_brain.acknowledged import render_acknowledged
from esper.karn.sanctum.widgets.tamiyo_brain.evidence_table import render_evidence
from esper.karn.store.run_files.acknowledgements import Acknowledgement
from esper.karn.text.figures import figure
from esper.karn.text.light_signs import FIRST_OUT_MARK, LIT, LIT_BY_DRILL, UNKNOWN, UNLIT
from esper.karn.text.palette import DARK, Palette
from esper.leyline.head_figures import HEAD_FIGURES, HeadFigure
from esper.leyline.text.plurals import counted
from esper.leyline.text.sighting_words import (
    KIND_WORDS,
    NOT_REPRODUCED,
    PLANTED,
    joined,
    place_words,
    quantity_words,
)

#: Names of the heads on the screen, with their names in `HEAD_NAMES`.
DISPLAY_TO_LEYLINE_KEY: Final = {
    "Slot": "slot",
    "Blueprint": "blueprint",
    "Style": "style",
    "Tempo": "tempo",
    "αTarget": "alpha_target",
    "αSpeed": "alpha_speed",
    "αCurve": "alpha_curve",
    "Op": "op",
}
_DISPLAY_BY_HEAD: Final = {head: shown for shown, head in DISPLAY_TO_LEYLINE_KEY.items()}

_LABEL_WIDTH: Final = 10
_VALUE_WIDTH: Final = 5
_WIDEST_TREND: Final = 24
_SHORTEST_TREND: Final = 12  # in updates: two of them would always look like a jump
#: Figures with a history: always shown.
_FIGURES: Final = tuple(figure for figure in HEAD_FIGURES if figure.chart_rank is not None)
#: Figures without a history: shown as far as there is room.
_MORE_FIGURES: Final = tuple(figure for figure in HEAD_FIGURES if figure.chart_rank is None)
#: Minimum number of lines for figures without a history; with fewer, none is shown.
_MIN_MORE_FIGURES: Final = 4
#: Lines that are always shown: names, figures with a history, two rows of lights, the first-out.
SHORT_HEIGHT: Final = len(_FIGURES) + 4
#: Lines of evidence that have priority over further figures: its heading and the first four rows.
_EVIDENCE_IN_SIGHT: Final = 5
_STEADY: Final = Lamps(bright=False)


def display_name(head: str) -> str:
    """Return the name of a head on the screen; heads of other agents keep their own."""
    return _DISPLAY_BY_HEAD.get(head, head)


def describe_sighting(sighting: FirstSighting) -> str:
    """Return "op NaN in logits, while acting, host 4, step 7, update 12"."""
    kind = KIND_WORDS.get(sighting.kind, sighting.kind)
    return joined(
        f"{sighting.head} {kind} in {quantity_words(sighting.quantity, sighting.part)}",
        place_words(sighting.phase, sighting.host, sighting.step),
        f"update {sighting.update}",
        "" if sighting.reproduced else NOT_REPRODUCED,
        PLANTED if sighting.planted else "",
    )


def render_heads(
    snapshot: SanctumSnapshot,
    width: int,
    height: int = SHORT_HEIGHT,
    palette: Palette = DARK,
    *,
    acknowledgements: Sequence[Acknowledgement] = (),
    lamps: Lamps = _STEADY,
    doubt: Doubt = NO_DOUBT,
) -> Text:
    """Return the table of heads.

    Each head has a column, in which name, values and lights are left-aligned. Heads that do not fit
    side by side continue below. The lights of the groups follow, with the first-out after or below
    them, then the evidence of the lights and their acknowledgements. Unacknowledged lights are
    highlighted.

    Args:
        snapshot: state of the run.
        width: width in cells.
        height: height in lines; a larger one has room for figures without a history.
        palette: colours.
        acknowledgements: acknowledgements of lights.
        lamps: how lights are shown.
        doubt: what of the run is unread, missing or damaged; its reason for unknown lights is shown
            next to the lights of the groups.
    """
    tamiyo = snapshot.tamiyo
    heads = list(dict.fromkeys([*snapshot.run.heads, *tamiyo.head_inf_latch]))
    figures = _FIGURES
    evidence = render_evidence(tamiyo.evidence, display_name, width, palette)
    evidence += render_acknowledged(acknowledgements, display_name, palette)
    seen = {(one.head, one.light) for one in acknowledgements}
    room = height - SHORT_HEIGHT - min(len(evidence), _EVIDENCE_IN_SIGHT)
    if room >= _MIN_MORE_FIGURES:
        figures += _MORE_FIGURES[:room]
    trend_width = _trend_width(heads, width)
    unlit = (
        Text(UNKNOWN, style=f"bold {palette.warning}")
        if doubt.lights is not None
        else Text(UNLIT, style=f"dim {palette.muted}")
    )
    lines: list[Text] = []
    for group in _groups(heads, width, trend_width):
        lines += _render_group(group, figures, snapshot, trend_width, palette)
        lines += _light_lines(group, tamiyo, trend_width, seen, palette, lamps, unlit)
    lines += _group_lines(tamiyo, width, seen, palette, lamps, unlit, doubt)
    lines += evidence
    for line in lines:
        if line.cell_len > width:
            line.rstrip()  # no ellipsis for the gap after the last column
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _column_width(head: str, trend_width: int) -> int:
    gap = 1 if trend_width <= 2 else 2
    return max(len(display_name(head)), _VALUE_WIDTH + trend_width) + gap


def _trend_width(heads: Sequence[str], width: int) -> int:
    for trend_width in range(_WIDEST_TREND, -1, -1):
        if _LABEL_WIDTH + sum(_column_width(head, trend_width) for head in heads) <= width + 1:
            return trend_width
    return 0


def _groups(heads: Sequence[str], width: int, trend_width: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    room = width - _LABEL_WIDTH
    for head in heads:
        needed = _column_width(head, trend_width)
        if groups[-1] and room + 1 < needed:
            groups.append([])
            room = width - _LABEL_WIDTH
        groups[-1].append(head)
        room -= needed
    return groups


def _render_group(
    heads: Sequence[str],
    figures: Sequence[HeadFigure],
    snapshot: SanctumSnapshot,
    trend_width: int,
    palette: Palette,
) -> list[Text]:
    tamiyo = snapshot.tamiyo
    widths = {head: _column_width(head, trend_width) for head in heads}
    names = _label("", palette)
    for head in heads:
        names.append(display_name(head).ljust(widths[head]), f"bold {palette.muted}")
    lines = [names]
    for described in figures:
        line = _label(described.label, palette)
        values = described.of(tamiyo.figures)
        for head in heads:
            value = values.get(head)
            style = figure_style(described.snapshot_path, value, snapshot.run.update, palette)
            cell = Text(no_wrap=True).append(figure(value).ljust(_VALUE_WIDTH), style)
            if described.chart_rank is not None:
                # At 80 columns there is one cell: the rank of the value among recent values.
                curve = max(0, trend_width - 1)
                history = tamiyo.history(described.field, head)
                newest = history[-max(curve, _SHORTEST_TREND) :]
                cell.append(" ").append_text(sparkline(newest, curve, palette))
            cell.truncate(widths[head], pad=True)
            line.append_text(cell)
        lines.append(line)
    return lines


def _light_lines(
    heads: Sequence[str],
    tamiyo: TamiyoState,
    trend_width: int,
    seen: Container[Light],
    palette: Palette,
    lamps: Lamps,
    unlit: Text,
) -> list[Text]:
    lines = []
    lights = (
        ("Inf", tamiyo.head_inf_latch, tamiyo.head_inf_active),
        ("NaN", tamiyo.head_nan_latch, tamiyo.head_nan_active),
    )
    for label, latch, active in lights:
        line = Text(no_wrap=True).append(label.ljust(_LABEL_WIDTH), f"bold {palette.ink}")
        planted = tamiyo.planted(label.lower())
        for head in heads:
            cell = _light(
                latch.get(head, False),
                palette,
                lamps,
                unlit,
                first=_is_first_out(tamiyo, head, label),
                now=active.get(head, False),
                is_seen=(head, label.lower()) in seen,
                is_planted=planted.get(head, False),
            )
            cell.truncate(_column_width(head, trend_width), pad=True)
            line.append_text(cell)
        lines.append(line)
    return lines


def _light(
    lit: bool,
    palette: Palette,
    lamps: Lamps,
    unlit: Text,
    *,
    first: bool,
    now: bool,
    is_seen: bool,
    is_planted: bool,
) -> Text:
    if lamps.is_test:
        return Text(LIT, style=f"bold {palette.critical}")
    if not lit:
        return unlit.copy()
    calls = lamps.bright and not is_seen
    style = f"bold {palette.critical}"
    sign = LIT_BY_DRILL if is_planted else LIT
    light = Text(style=style).append(sign, f"{style} reverse" if calls else "")
    if first:
        light.append(FIRST_OUT_MARK)
    if now:
        light.append(" now")
    return light


def _is_first_out(tamiyo: TamiyoState, head: str, label: str) -> bool:
    if not tamiyo.first:
        return False
    first = tamiyo.first[0]
    return first.head == head and KIND_WORDS.get(first.kind, "").lstrip("-") == label


def _group_lines(
    tamiyo: TamiyoState,
    width: int,
    seen: Container[Light],
    palette: Palette,
    lamps: Lamps,
    unlit: Text,
    doubt: Doubt,
) -> list[Text]:
    """Return the lights of the groups, and next to or below them a message."""
    line = Text(no_wrap=True)
    for group in tamiyo.group_inf_latch:
        name = group.capitalize()
        line.append(f"{name} " if line.cell_len else name.ljust(_LABEL_WIDTH), palette.muted)
        for label in ("Inf", "NaN"):
            line.append(f"{label} ", palette.muted)
            light = _light(
                tamiyo.latch(label.lower()).get(group, False),
                palette,
                lamps,
                unlit,
                first=_is_first_out(tamiyo, group, label),
                now=tamiyo.active(label.lower()).get(group, False),
                is_seen=(group, label.lower()) in seen,
                is_planted=tamiyo.planted(label.lower()).get(group, False),
            )
            line.append_text(light).append("  ")
    message, style = _message(tamiyo, palette, lamps, doubt)
    if line.cell_len + len(message) <= width:
        return [line.append(message, style)]
    if len(message) > width:
        message = message.replace("while ", "")
    return [
        line,
        *(
            Text(words, style=style, no_wrap=True)
            for words in textwrap.wrap(message, max(1, width), subsequent_indent="  ")
        ),
    ]


def _message(tamiyo: TamiyoState, palette: Palette, lamps: Lamps, doubt: Doubt) -> tuple[str, str]:
    """Return a message on the lights as a whole, and its style."""
    if lamps.is_test:
        return "LAMP TEST: nothing is stored", f"bold {palette.ink}"
    if tamiyo.first:
        return f"first: {describe_sighting(tamiyo.first[0])}", f"bold {palette.critical}"
    if doubt.lights is not None:
        return f"not known: {doubt.lights}", f"bold {palette.warning}"
    return "no Inf and no NaN in this run", palette.muted


def _label(text: str, palette: Palette) -> Text:
    return Text(no_wrap=True).append(text.ljust(_LABEL_WIDTH), palette.muted)


class ActionHeadsPanel(Panel):
    """Panel with the health of each action head; its lights are TELE-302 and TELE-303."""

    BORDER_TITLE = "Action heads"
    ABOUT = "the policy's eight choices; ● has been Inf or NaN, ○ never"

    def part(self, view: View) -> object:
        run = view.snapshot.run
        return view.snapshot.tamiyo, run.heads, run.update, view.acknowledgements, view.doubt

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_heads(
            view.snapshot,
            width,
            height,
            palette,
            acknowledgements=view.acknowledgements,
            lamps=self.lamps,
            doubt=view.doubt,
        )

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

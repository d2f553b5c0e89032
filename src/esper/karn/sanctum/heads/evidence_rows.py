"""Rows of evidence: one per head, quantity and kind of value, and one per head without any."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.text import Text

from esper.karn.sanctum.fold.attention import Lamps, light_of
from esper.karn.sanctum.fold.evidence import evidence_words
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.schema import Evidence, FirstSighting
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import display_name
from esper.karn.store.run_files.acknowledgements import Acknowledgement
from esper.karn.text.columns import GAP, column_widths, in_columns
from esper.karn.text.figures import ABSENT, count, place_text
from esper.karn.text.light_signs import FIRST_OUT_MARK, LIT, LIT_BY_DRILL, UNKNOWN, UNLIT
from esper.karn.text.local_time import day_of
from esper.karn.text.palette import DARK, Palette
from esper.leyline.telemetry import GROUPS
from esper.leyline.text.sighting_words import KIND_WORDS

#: Head, quantity and kind; the last two are empty for a head without evidence.
RowKey = tuple[str, str, str]

_HEADERS: Final = (
    "head",
    "seen",
    "now",
    "repr.",
    "updates",
    "minib.",
    "first",
    "last",
    "where",
    "acknowledged",
)
_DROPPED_FIRST: Final = ("where", "minib.", "updates")  # if they do not all fit
_OPTIONAL: Final = ("repr.", "where")  # shown only if some row has a value
#: In the column "repr.": a repetition of the computation did not reproduce the value.
_NOT_REPRODUCED: Final = "no"
_LEAD: Final = 5  # cells for cursor, light, mark and two gaps
_NARROWEST_LAST: Final = 12
_ROOMY: Final = 100  # cells in which every column fits
_STEADY: Final = Lamps()


@dataclass(frozen=True)
class HeadRow:
    """One kind of non-finite value in one quantity of a head, or a head without evidence."""

    head: str
    evidence: Evidence | None = None  # None: nothing was seen in this head
    is_first_out: bool = False
    acknowledged: Acknowledgement | None = None
    doubt: str | None = None  # why evidence may be missing

    @property
    def key(self) -> RowKey:
        """What identifies the row."""
        if self.evidence is None:
            return self.head, "", ""
        return self.head, self.evidence.quantity, self.evidence.kind


def rows_of(view: View) -> list[HeadRow]:
    """Return the rows with evidence by their first sighting, then the heads without any."""
    tamiyo = view.snapshot.tamiyo
    first = tamiyo.first[0] if tamiyo.first else None
    # If several people acknowledged a light, the first is shown.
    seen_by = {(one.head, one.light): one for one in reversed(view.acknowledgements)}
    rows = [
        HeadRow(
            one.head,
            one,
            is_first_out=_is_of(one, first),
            acknowledged=seen_by.get((one.head, light_of(one.kind))),
        )
        for one in tamiyo.evidence
    ]
    shown = {row.head for row in rows}
    heads = dict.fromkeys([*view.snapshot.run.heads, *tamiyo.head_inf_latch])
    return rows + [HeadRow(head, doubt=view.doubt.lights) for head in heads if head not in shown]


def _is_of(evidence: Evidence, first: FirstSighting | None) -> bool:
    return first is not None and (evidence.head, evidence.quantity, evidence.kind) == (
        first.head,
        first.quantity,
        first.kind,
    )


def render_rows(
    view: View, width: int, palette: Palette = DARK, lamps: Lamps = _STEADY
) -> list[Text]:
    """Return a heading and a line for each row of `rows_of`; the first cell is for a cursor."""
    rows = rows_of(view)
    cells = [_cells(row, view.now, has_room=width >= _ROOMY) for row in rows]
    # The text of a head without evidence extends over the columns that it leaves empty.
    widths = column_widths([_HEADERS, *(line for line in cells if len(line) > 2)])
    widths[0] = max(widths[0], *(len(line[0]) for line in cells))
    filled = {
        name
        for at, name in enumerate(_HEADERS)
        if name not in _OPTIONAL or any(line[at] for line in cells if len(line) > 2)
    }
    shown = _columns(filled, widths, width)
    lines = [_line(" " * _LEAD, _HEADERS, shown, widths, width, palette.muted)]
    for row, line in zip(rows, cells, strict=True):
        lines.append(_row_line(row, line, shown, widths, width, palette, lamps))
    return lines


def _columns(filled: Set[str], widths: Sequence[int], width: int) -> list[int]:
    """Return the columns that are shown: of those with values, as many as fit."""

    def places(names: Set[str]) -> list[int]:
        return [at for at, name in enumerate(_HEADERS) if name in names]

    choices = [
        filled - {"repr."},  # the words in "where" include it
        *(filled - set(_DROPPED_FIRST[:end]) for end in range(1, len(_DROPPED_FIRST) + 1)),
    ]
    for names in choices:
        shown = places(names)
        if _LEAD + sum(widths[at] + GAP for at in shown[:-1]) + _NARROWEST_LAST <= width:
            return shown
    return places(choices[-1])


def _cells(row: HeadRow, now: float, *, has_room: bool) -> Sequence[str]:
    name = GROUPS.get(row.head, display_name(row.head)).removeprefix("the ")
    evidence = row.evidence
    if evidence is None:
        return name, f"not known: {row.doubt}" if row.doubt else "neither Inf nor NaN"
    return (
        name,
        f"{KIND_WORDS.get(evidence.kind, evidence.kind)} in {evidence.quantity}",
        "now" if evidence.is_active else "",
        "" if evidence.reproduced else _NOT_REPRODUCED,
        count(evidence.updates),
        count(evidence.minibatches or None),
        place_text(evidence.first_update, evidence.first_epoch, evidence.first_minibatch),
        place_text(evidence.last_update, evidence.last_epoch, evidence.last_minibatch),
        evidence_words(evidence),
        ABSENT if row.acknowledged is None else who_and_when(row.acknowledged, now, has_room),
    )


def who_and_when(acknowledged: Acknowledgement, now: float, has_room: bool) -> str:
    """Return "19:32 ana@lab" in local time, with the date unless it is today's.

    Without room, the machine is left out.
    """
    then = datetime.fromtimestamp(acknowledged.time)
    clock = then.strftime("%H:%M" if then.date() == day_of(now) else "%m-%d %H:%M")
    who = acknowledged.who if has_room else acknowledged.who.partition("@")[0]
    return f"{clock} {who}"


def _row_line(
    row: HeadRow,
    cells: Sequence[str],
    shown: Sequence[int],
    widths: Sequence[int],
    width: int,
    palette: Palette,
    lamps: Lamps,
) -> Text:
    lead = Text("  ", no_wrap=True)
    lit = f"bold {palette.critical}"
    if row.evidence is None:
        unlit = (UNKNOWN, f"bold {palette.warning}") if row.doubt else (UNLIT, palette.faint)
        lead.append(*((LIT, lit) if lamps.is_test else unlit))
        lead.append("  ")
        return lead + _line("", cells, range(len(cells)), widths, width - _LEAD, palette.muted)
    calls = lamps.bright and not lamps.is_test and row.acknowledged is None
    sign = LIT_BY_DRILL if row.evidence.planted else LIT
    lead.append(sign, f"bold {palette.on_alert} on {palette.critical}" if calls else lit)
    lead.append((FIRST_OUT_MARK if row.is_first_out else "").ljust(2), lit)
    # Only the light stands out once the value is no longer seen.
    style = f"bold {palette.critical}" if row.evidence.is_active else palette.ink
    return lead + _line("", cells, shown, widths, width - _LEAD, style)


def _line(
    lead: str,
    cells: Sequence[str],
    shown: Sequence[int],
    widths: Sequence[int],
    width: int,
    style: str,
) -> Text:
    line = in_columns([cells[at] for at in shown], [widths[at] for at in shown], style)
    line = Text(lead, style, no_wrap=True).append_text(line)
    line.truncate(max(width, 0), overflow="ellipsis")
    return line

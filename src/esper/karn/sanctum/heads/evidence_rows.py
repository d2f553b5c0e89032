"""Rows of evidence: one per head, quantity and kind of value, and one per head without any.

A watched run may have thousands of groups: rows of heads without evidence are drawn once and kept.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from rich.text import Text

from esper.karn.sanctum.fold.attention import STALLED_LIGHT, Lamps, Light, light_of
from esper.karn.sanctum.fold.evidence import evidence_words
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.overview.lights_panel import stalled_words
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
_DARK_LINES_KEPT: Final = 8192
_NEITHER: Final = "neither Inf nor NaN"


@dataclass(frozen=True)
class HeadRow:
    """One kind of non-finite value in one quantity of a head, or a head without evidence.

    In a watched run, one more row is that of `STALLED_LIGHT`.
    """

    head: str
    evidence: Evidence | None = None  # None: nothing was seen in this head
    is_first_out: bool = False
    acknowledged: Acknowledgement | None = None
    doubt: str | None = None  # why evidence may be missing
    kind: str = ""  # of a head of a watched run, one of HEAD_KINDS
    stalled: str = ""  # of the row of a lit STALLED_LIGHT: what it reports
    is_active: bool = False  # the same: whether training is stalled now

    @property
    def light(self) -> Light | None:
        """The light of the row; None if it is dark."""
        if self.stalled:
            return STALLED_LIGHT
        return None if self.evidence is None else (self.head, light_of(self.evidence.kind))

    @property
    def key(self) -> RowKey:
        """What identifies the row."""
        if self.evidence is None:
            return self.head, "", ""
        return self.head, self.evidence.quantity, self.evidence.kind


def rows_of(view: View, search: str = "") -> list[HeadRow]:
    """Return the rows with evidence by their first sighting, then the heads without any.

    A watched run has two more rows: one for "stalled" after the evidence, if that light is on, and
    one for the shared part, which comes before heads without evidence.

    Args:
        view: the run.
        search: words, each of which must be in a row's head, kind, quantity or value.
    """
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
    run, training = view.snapshot.run, view.snapshot.training
    if training.stalled_latch:
        words, is_now = stalled_words(training)
        known = seen_by.get(STALLED_LIGHT)
        rows.append(HeadRow("stalled", acknowledged=known, stalled=words, is_active=is_now))
    shown = {row.head for row in rows}
    groups = tamiyo.group_inf_latch if run.is_watched else ()
    heads = dict.fromkeys([*groups, *run.heads, *tamiyo.head_inf_latch])
    kinds = run.head_kinds if run.is_watched else {}
    rows += [
        HeadRow(head, doubt=view.doubt.lights, kind=kinds.get(head, ""))
        for head in heads
        if head not in shown
    ]
    words_searched = search.lower().split()
    return [row for row in rows if all(word in _searched(row) for word in words_searched)]


def _searched(row: HeadRow) -> str:
    evidence = row.evidence
    seen = [] if evidence is None else [evidence.quantity, KIND_WORDS.get(evidence.kind, "")]
    return " ".join([row.head, row.kind, row.stalled, *seen]).lower()


def _is_of(evidence: Evidence, first: FirstSighting | None) -> bool:
    return first is not None and (evidence.head, evidence.quantity, evidence.kind) == (
        first.head,
        first.quantity,
        first.kind,
    )


def render_rows(
    view: View,
    width: int,
    palette: Palette = DARK,
    lamps: Lamps = _STEADY,
    *,
    rows: Sequence[HeadRow] | None = None,
) -> list[Text]:
    """Return a heading and a line for each row; the first cell is for a cursor.

    Args:
        view: the run.
        width: in cells.
        palette: the colours to choose from.
        lamps: how lights are shown.
        rows: some rows of `rows_of`; all of them by default.
    """
    rows = rows_of(view) if rows is None else rows
    cells = [_cells(row, view.now, has_room=width >= _ROOMY) for row in rows]
    # The text of a head without evidence extends over the columns that it leaves empty.
    widths = column_widths([_HEADERS, *(line for line in cells if len(line) > 2)])
    widths[0] = max([widths[0], *(len(line[0]) for line in cells)])
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
    if row.stalled:
        known = row.acknowledged
        who = "" if known is None else f", acknowledged {who_and_when(known, now, has_room)}"
        return name, f"{row.stalled}{who}"
    if evidence is None:
        kind = f" ({row.kind})" if row.kind else ""
        return name, f"not known: {row.doubt}" if row.doubt else f"{_NEITHER}{kind}"
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
    if row.light is None:
        has_doubt, is_test = row.doubt is not None, lamps.is_test
        return _dark_line(cells[0], cells[1], widths[0], width, palette, has_doubt, is_test)
    lead = Text("  ", no_wrap=True)
    lit = f"bold {palette.critical}"
    calls = lamps.bright and not lamps.is_test and row.acknowledged is None
    is_planted = row.evidence is not None and row.evidence.planted
    sign = LIT_BY_DRILL if is_planted else LIT
    lead.append(sign, f"bold {palette.on_alert} on {palette.critical}" if calls else lit)
    lead.append((FIRST_OUT_MARK if row.is_first_out else "").ljust(2), lit)
    # Only the light stands out once the value is no longer seen.
    is_active = row.is_active if row.evidence is None else row.evidence.is_active
    style = f"bold {palette.critical}" if is_active else palette.ink
    if row.evidence is None:
        shown = range(len(cells))
    return lead + _line("", cells, shown, widths, width - _LEAD, style)


@lru_cache(maxsize=_DARK_LINES_KEPT)
def _dark_line(
    name: str,
    words: str,
    name_width: int,
    width: int,
    palette: Palette,
    has_doubt: bool,
    is_test: bool,
) -> Text:
    """Return the line of a head without evidence. Callers do not change it."""
    sign, style = (UNKNOWN, f"bold {palette.warning}") if has_doubt else (UNLIT, palette.faint)
    if is_test:
        sign, style = LIT, f"bold {palette.critical}"
    lead = Text("  ", no_wrap=True).append(sign, style).append("  ")
    cells, widths = (name, words), (name_width, 0)
    return lead + _line("", cells, (0, 1), widths, width - _LEAD, palette.muted)


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

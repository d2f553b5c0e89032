"""The evidence of the lights: a line per head, quantity and kind of non-finite value."""

from collections.abc import Callable, Sequence
from typing import Final

from rich.text import Text

from esper.karn.reports.evidence_rows import EVIDENCE_HEADINGS, evidence_cells
from esper.karn.sanctum.fold.evidence import evidence_words
from esper.karn.sanctum.schema import Evidence
from esper.karn.text.columns import GAP, column_widths, in_columns
from esper.karn.text.figures import count
from esper.karn.text.palette import Palette

_HEADERS: Final = ("Evidence", *EVIDENCE_HEADINGS)
_PLACES: Final = (
    "update/epoch/minibatch",
    "upd/ep/mb",
)  # the longest that fits is shown in the heading


def render_evidence(
    evidence: Sequence[Evidence], name_of: Callable[[str], str], width: int, palette: Palette
) -> list[Text]:
    """Return a heading and a line for each row, by first sighting; empty without evidence.

    Details are at the end of a line, or below it if they are too long.

    Args:
        evidence: what was seen.
        name_of: returns the name of a head on the screen.
        width: in cells.
        palette: the colours to choose from.
    """
    if not evidence:
        return []
    rows = [evidence_cells(row, name_of(row.head), count) for row in evidence]
    widths = column_widths([_HEADERS, *rows])
    whole_width = sum(widths) + GAP * len(widths)
    heading = in_columns(_HEADERS, widths, palette.muted)
    for words in _PLACES:
        if heading.cell_len + len(words) + 3 <= width:
            heading.append(f" ({words})")
            break
    lines = [heading]
    for row, cells in zip(evidence, rows, strict=True):
        # Only the light stands out once the value is no longer seen.
        style = f"bold {palette.critical}" if row.is_active else palette.ink
        line = in_columns(cells, widths, style)
        if words := evidence_words(row):
            if whole_width + len(words) <= width:
                line.pad_right(whole_width - line.cell_len)
                line.append(words)
            else:
                lines.append(line)
                line = Text(f"  {words}", style=style, no_wrap=True)
        lines.append(line)
    return lines

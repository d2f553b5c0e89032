"""Lines in columns; the styles and words that the text reports share."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Final

from rich.text import Text

from esper.karn.text.columns import columns
from esper.karn.text.figures import ABSENT
from esper.leyline.health import Level

UNKNOWN_STYLE: Final = "bold yellow"
LIT_STYLE: Final = "bold red"
LEVEL_STYLES: Final = {
    Level.OK: "green",
    Level.NOTICE: "default",
    Level.WARNING: "yellow",
    Level.CRITICAL: LIT_STYLE,
}


def score_text(score: float | None) -> str:
    """Return a score with three decimals; a dash for None."""
    if score is None:
        return ABSENT
    return "NaN" if math.isnan(score) else f"{score:.3f}"


def named_rows(rows: Sequence[tuple[str, str]]) -> list[list[Text]]:
    """Return pairs of a name and a text as rows for `column_lines`."""
    return [[Text(f"  {name}", style="dim"), Text(text)] for name, text in rows]


def whole(line: Text) -> Text:
    """Return a line that is never wrapped, so that what it names can be copied."""
    line.no_wrap, line.overflow = True, "ignore"
    return line


def column_lines(
    rows: Sequence[Sequence[Text]],
    headers: Sequence[str] = (),
    details: Sequence[Text | None] = (),
) -> list[Text]:
    """Return rows as lines in columns as wide as they need.

    Args:
        rows: the cells of each row.
        headers: the name of each column; none if empty.
        details: for each row, a line below it, or None.
    """
    heading = [[Text(header, style="bold") for header in headers]] if headers else []
    table = [*heading, *rows]
    for cell in chain.from_iterable(table):
        if "\n" in cell.plain:  # a name can hold anything
            cell.plain = cell.plain.replace("\n", " ")
    below = [None] * len(heading) + list(details or [None] * len(rows))
    lines = zip(columns(table), below, strict=True)
    return [whole(line) for line in chain.from_iterable(lines) if line is not None]

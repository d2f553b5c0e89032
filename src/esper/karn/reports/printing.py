"""Prints rows in columns; the styles and words that the text reports share."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Final

from rich.console import Console
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
    """Return pairs of a name and a text as rows for `print_columns`."""
    return [[Text(f"  {name}", style="dim"), Text(text)] for name, text in rows]


def print_columns(
    console: Console,
    rows: Sequence[Sequence[Text]],
    headers: Sequence[str] = (),
    details: Sequence[Text | None] = (),
) -> None:
    """Print rows in columns as wide as they need.

    Args:
        console: where to print.
        rows: the cells of each row.
        headers: the name of each column; none if empty.
        details: for each row, a line to print below it, or None.
    """
    heading = [[Text(header, style="bold") for header in headers]] if headers else []
    table = [*heading, *rows]
    for cell in chain.from_iterable(table):
        if "\n" in cell.plain:  # a name can hold anything
            cell.plain = cell.plain.replace("\n", " ")
    below = [None] * len(heading) + list(details or [None] * len(rows))
    for line, detail in zip(columns(table), below, strict=True):
        console.print(line, soft_wrap=True)
        if detail is not None:
            console.print(detail, soft_wrap=True)

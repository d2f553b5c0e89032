"""Signs, words and columns that the text reports share.

Signs and words carry the meaning, so nothing is lost without colour or in a pipe.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Final

from rich.console import Console
from rich.text import Text

from esper.karn.store.liveness import RunStatus, StatusKind
from esper.leyline.health import Level

LIT: Final = "●"
UNLIT: Final = "○"
UNKNOWN: Final = "?"
UNKNOWN_STYLE: Final = "bold yellow"
NONE: Final = "–"
LIT_STYLE: Final = "bold red"
STATUS_STYLES: Final = {
    StatusKind.LIVE: "green",
    StatusKind.STALLED: "yellow",
    StatusKind.STALE: "yellow",
    StatusKind.UNREADABLE: "red",
    StatusKind.HALTED: "red",
    StatusKind.FAILED: "red",
    StatusKind.DEAD: "red",
}
LEVEL_STYLES: Final = {
    Level.OK: "green",
    Level.NOTICE: "default",
    Level.WARNING: "yellow",
    Level.CRITICAL: LIT_STYLE,
}


def counted(number: int, name: str, plural: str = "s") -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}{plural}"


def status_text(status: RunStatus) -> Text:
    word = str(status.kind)
    if status.kind is StatusKind.STALE and status.seconds is not None:
        word += f" {status.seconds:.0f} s"
    return Text(word, style=STATUS_STYLES.get(status.kind, ""))


def score_text(score: float | None) -> str:
    if score is None:
        return NONE
    return "NaN" if math.isnan(score) else f"{score:.3f}"


def named_rows(rows: Sequence[tuple[str, str]]) -> list[list[Text]]:
    return [[Text(f"  {name}", style="dim"), Text(text)] for name, text in rows]


def print_columns(
    console: Console,
    rows: Sequence[Sequence[Text]],
    headers: Sequence[str] = (),
    details: Sequence[Text | None] = (),
) -> None:
    """Print rows in columns as wide as they need: an id that is cut off cannot be copied.

    Rich's tables fit themselves into the console, and a pipe is taken to be 80 columns wide.

    Args:
        console: where to print.
        rows: the cells of each row.
        headers: the name of each column; none if empty.
        details: of each row, the line that belongs below it, if any.
    """
    heading = [[Text(header, style="bold") for header in headers]] if headers else []
    lines = [*heading, *rows]
    for cell in chain.from_iterable(lines):
        if "\n" in cell.plain:  # a name can hold anything
            cell.plain = cell.plain.replace("\n", " ")
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    below = [None] * len(heading) + list(details or [None] * len(rows))
    for cells, detail in zip(lines, below, strict=True):
        line = Text(no_wrap=True)
        for cell, width in zip(cells, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len + 2))
        line.rstrip()
        console.print(line, soft_wrap=True)
        if detail is not None:
            console.print(detail, soft_wrap=True)

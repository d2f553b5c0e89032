"""Cells in columns, and pieces of text put together into lines."""

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.text import Text

#: Cells between two columns.
GAP = 2


def column_widths(rows: Iterable[Sequence[str | Text]]) -> list[int]:
    """Return the width in cells of each column: that of its widest cell."""
    return [max(map(_width, column)) for column in zip(*rows, strict=True)]


def in_columns(cells: Sequence[str | Text], widths: Sequence[int], style: str = "") -> Text:
    """Return one row as a line.

    Args:
        cells: the cells of the row.
        widths: the width of each column in cells; a wider cell pushes what follows to the right.
        style: Rich style of the whole line; cells keep their own styles.
    """
    line = Text(style=style, no_wrap=True)
    for cell, width in zip(cells, widths, strict=True):
        line.append(cell) if isinstance(cell, str) else line.append_text(cell)
        line.append(" " * (width - _width(cell) + GAP))
    line.rstrip()
    return line


def columns(rows: Sequence[Sequence[str | Text]]) -> list[Text]:
    """Return rows as lines, with every column as wide as it needs.

    Rich's tables are not used: they cut cells to the console's width, which is 80 cells in a pipe,
    and an id that is cut cannot be copied.
    """
    widths = column_widths(rows)
    return [in_columns(row, widths) for row in rows]


def joined(parts: Iterable[Text], separator: str = " " * GAP) -> Text:
    """Return the parts that are not empty as one line."""
    return Text(separator, no_wrap=True).join([part for part in parts if part.cell_len])


def fitted(
    first: Text, others: Iterable[Text], width: int | None, separator: str = " " * GAP
) -> Text:
    """Return `first`, followed by those of the other parts that fit whole.

    Args:
        first: the part that always stays; may be empty.
        others: further parts, the most important first.
        width: in cells; None for no limit.
        separator: between two parts.
    """
    line = first.copy()
    for part in others:
        gap = separator if line.cell_len else ""
        if part.cell_len and (width is None or line.cell_len + len(gap) + part.cell_len <= width):
            line.append(gap).append_text(part)
    return line


def flowed(entries: Iterable[Text], width: int) -> list[Text]:
    """Return entries side by side, on as many lines of `width` cells as they need."""
    lines = [Text(no_wrap=True)]
    for entry in entries:
        if lines[-1].cell_len and lines[-1].cell_len + GAP + entry.cell_len > width:
            lines.append(Text(no_wrap=True))
        lines[-1].append(" " * GAP if lines[-1].cell_len else "").append_text(entry)
    return lines


def _width(cell: str | Text) -> int:
    return cell_len(cell) if isinstance(cell, str) else cell.cell_len

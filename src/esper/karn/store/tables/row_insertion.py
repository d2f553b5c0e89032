"""Insertion of many rows with few statements."""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Final

#: Rows per statement; SQLite accepts at most 32,766 values.
_ROWS_PER_STATEMENT: Final = 256


def insert_rows(
    connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert rows, many per statement.

    `executemany` releases the interpreter's lock at every row. Beside a thread that computes in
    Python, it can take 5 ms (`sys.getswitchinterval`) to get it back.
    """
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        chunk = rows[start : start + _ROWS_PER_STATEMENT]
        row = f"({', '.join('?' * len(chunk[0]))})"
        values = list(chain.from_iterable(chunk))
        connection.execute(f"{insert} {', '.join([row] * len(chunk))}", values)

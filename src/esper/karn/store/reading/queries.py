"""Read-only SQL queries of users on a run's store, with limits on time and rows."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esper.karn.store.errors import RunStoreError
from esper.karn.store.rank_folders import rank_folders
from esper.karn.store.reading.read_only_store import SESSION_SECONDS, ReadOnlyStore
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.errors import EsperError
from esper.leyline.telemetry import RunStarted

#: Allowed actions of a query; everything else is rejected before it runs.
_ALLOWED: Final = (
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
)
#: SQLite errors that are caused by the query, not by the store.
_OF_THE_QUERY: Final = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH)
_REFUSED_FUNCTIONS: Final = ("load_extension", "fts3_tokenizer", "writefile", "readfile", "edit")


class QueryError(EsperError, ValueError):
    """A query cannot be run; the message says why."""


@dataclass(frozen=True)
class QueryResult:
    """The rows of a query.

    Attributes:
        columns: names of the columns.
        rows: the rows, at most the requested number.
        is_cut: whether there are more rows.
        missing: a sentence for each rank whose store could not be queried.
    """

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    is_cut: bool
    missing: tuple[str, ...] = ()


class QueriedStore(ReadOnlyStore):
    """The store of a run, for queries of a user.

    Args:
        directory: the run's directory.
    """

    def query(self, sql: str, most_rows: int) -> QueryResult:
        """Return the rows of one SELECT.

        Args:
            sql: the query.
            most_rows: maximum number of rows to read.

        Raises:
            QueryError: the SQL is wrong, or does more than read the store.
            RunStoreError: the store cannot be read, or the query takes too long.
        """
        with self._connection() as connection:
            if connection is None:
                raise QueryError("the store has no tables yet")
            connection.set_authorizer(_authorized)
            try:
                cursor = connection.execute(sql)
                rows = cursor.fetchmany(most_rows + 1)
            except (sqlite3.ProgrammingError, sqlite3.Warning, ValueError) as error:
                raise QueryError(f"the query cannot be run: {error}") from error
            except sqlite3.DatabaseError as error:
                raise _of_database(error) from error
            finally:
                connection.set_authorizer(None)
        if cursor.description is None:
            raise QueryError("the query is empty: give one SELECT")
        columns = tuple(one[0] for one in cursor.description)
        return QueryResult(columns, rows[:most_rows], len(rows) > most_rows)


def query_run(run: Path, sql: str, most_rows: int) -> QueryResult:
    """Return the rows of one SELECT, in each store of a run that has several ranks.

    In a run with several ranks, the first column is `rank`, and the rows are in order of ranks.

    Args:
        run: the run's directory.
        sql: the query.
        most_rows: maximum number of rows to read.

    Raises:
        QueryError: as `QueriedStore.query`.
        RunStoreError: no store can be queried.
    """
    stores = {0: run, **rank_folders(run)}
    missing = {rank: "it has no store" for rank in range(_world_size(run)) if rank not in stores}
    if len(stores) + len(missing) == 1:
        return QueriedStore(run).query(sql, most_rows)
    columns: tuple[str, ...] | None = None
    rows: list[tuple[Any, ...]] = []
    first_error: EsperError | None = None
    is_cut = False
    for rank, folder in stores.items():
        try:
            found = QueriedStore(folder).query(sql, max(0, most_rows - len(rows)))
        except (QueryError, RunStoreError) as error:
            first_error = first_error or error
            missing[rank] = str(error)
            continue
        if columns is not None and found.columns != columns:
            missing[rank] = "its columns are others"
            continue
        columns = found.columns
        rows += [(rank, *row) for row in found.rows]
        is_cut = is_cut or found.is_cut
    if columns is None:
        assert first_error is not None
        raise first_error
    words = tuple(f"rank {rank} is left out: {missing[rank]}" for rank in sorted(missing))
    return QueryResult(("rank", *columns), rows, is_cut, words)


def _world_size(run: Path) -> int:
    """Return the number of ranks at the last start of a run; 1 if it cannot be read."""
    try:
        starts = RunReader(run).read_last("run_started", 1)
    except RunStoreError:
        return 1
    sizes = [one.payload.world_size for one in starts if isinstance(one.payload, RunStarted)]
    return max(sizes, default=1)


def _authorized(
    action: int, _of: str | None, name: str | None, _database: str | None, _trigger: str | None
) -> int:
    is_refused = action == sqlite3.SQLITE_FUNCTION and (name or "").lower() in _REFUSED_FUNCTIONS
    is_allowed = action in _ALLOWED and not is_refused
    return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY


def _of_database(error: sqlite3.DatabaseError) -> Exception:
    """Return the error to raise: that of the query, or that of the store."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_AUTH:
        return QueryError("a query can only read this store: give one SELECT")
    if code == sqlite3.SQLITE_INTERRUPT:
        return RunStoreError(f"the query took longer than {SESSION_SECONDS:.0f} s")
    if code in _OF_THE_QUERY:
        return QueryError(f"the query cannot be run: {error}")
    return error

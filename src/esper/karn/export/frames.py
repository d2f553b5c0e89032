"""Tables of a run as polars or pandas data frames."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.export.columns import TABLES
from esper.karn.export.rows import RunRows
from esper.karn.export.writers import ExportError
from esper.leyline.text.command_lines import install_command

if TYPE_CHECKING:
    import pandas
    import polars


def polars_frame(run: Path, table: str) -> "polars.DataFrame":
    """Return a table of a run as a polars data frame; see `to_polars` of an opened run."""
    _check(table, "polars")
    import polars

    kinds: dict[type, Any] = {
        str: polars.String,
        int: polars.Int64,
        float: polars.Float64,
        bool: polars.Boolean,
    }
    schema = {name: kinds[kind] for name, kind in TABLES[table].items()}
    frames = [
        polars.DataFrame(dict(batch.columns), schema=schema)
        for batch in RunRows(run).batches([table])
    ]
    return polars.concat([polars.DataFrame(schema=schema), *frames])


def pandas_frame(run: Path, table: str) -> "pandas.DataFrame":
    """Return a table of a run as a pandas data frame; see `to_pandas` of an opened run."""
    _check(table, "pandas")
    import pandas

    # Nullable types: in a float column, a missing value could not be distinguished from NaN.
    kinds = {str: "string", int: "Int64", float: "float64", bool: "boolean"}
    columns = TABLES[table]
    frames = [
        pandas.DataFrame(
            {
                name: pandas.array(batch.columns[name], dtype=kinds[kind])
                if kind is not float
                else batch.columns[name]
                for name, kind in columns.items()
            }
        )
        for batch in RunRows(run).batches([table])
    ]
    empty = pandas.DataFrame(
        {name: pandas.array([], dtype=kinds[kind]) for name, kind in columns.items()}
    )
    return pandas.concat(frames, ignore_index=True) if frames else empty


def _check(table: str, library: str) -> None:
    if table not in TABLES:
        raise ExportError(f"there is no table {table!r}; the tables are {', '.join(TABLES)}")
    if find_spec(library) is None:
        raise ExportError(f"this needs {library}; install it with: {install_command(library)}")

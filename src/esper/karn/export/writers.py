"""Writers of row batches: Parquet, CSV, JSON Lines and TensorBoard event files."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import msgspec
import numpy as np

from esper.karn.export.columns import TABLES, Batch
from esper.leyline.errors import EsperError
from esper.leyline.files.tensorboard_files import EventFile
from esper.leyline.text.command_lines import install_command

#: Required library and extra by format.
_NEEDED: Final = {
    "parquet": ("pyarrow", "parquet"),
    "tensorboard": ("tensorboardX", "tensorboard"),
}
#: Field names of columns whose name is a Python keyword.
_FIELDS: Final = {"class": "class_"}
#: First bytes of each exported JSON Lines file.
JSON_LINES_BEGIN: Final = b'{"table":'
_COLUMNS: Final = {field: column for column, field in _FIELDS.items()}


class ExportError(EsperError, ValueError):
    """The export is not possible; the message says why."""


class Writer(Protocol):
    """Writes batches until it is closed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def write(self, batch: Batch) -> None:
        """Write rows of one table.

        Raises:
            OSError: the file cannot be written.
        """
        ...


def check_library(form: str) -> None:
    """Check that the library of a format is installed.

    Raises:
        ExportError: it is not installed; the message has the command to install it.
    """
    library, extra = _NEEDED.get(form, ("", ""))
    if library and find_spec(library) is None:
        raise ExportError(f"--to {form} needs {library}; install it with: {install_command(extra)}")


class ParquetFiles:
    """A folder with one Parquet file per table.

    Args:
        folder: an existing folder.
        tables: names of the tables; a table without rows gets a file without rows.
    """

    def __init__(self, folder: Path, tables: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        self._arrow = pa
        kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
        self._schemas = {
            table: pa.schema([(name, kinds[kind]) for name, kind in TABLES[table].items()])
            for table in tables
        }
        self._stack = ExitStack()
        self._files = {
            table: self._stack.enter_context(
                pyarrow.parquet.ParquetWriter(folder / f"{table}.parquet", schema)
            )
            for table, schema in self._schemas.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, batch: Batch) -> None:
        """Write rows of one table."""
        schema = self._schemas[batch.table]
        # `from_pandas=False` keeps NaN as a value instead of a missing value.
        arrays = [
            self._arrow.array(batch.columns[field.name], field.type, from_pandas=False)
            for field in schema
        ]
        self._files[batch.table].write_batch(self._arrow.record_batch(arrays, schema=schema))


class CsvFiles:
    """One CSV file per table, with a header; missing values are empty, booleans true or false.

    Args:
        opened: returns the open file of a table.
        tables: names of the tables.
    """

    def __init__(self, opened: Callable[[str], IO[str]], tables: Sequence[str]) -> None:
        self._files = {table: opened(table) for table in tables}
        for table, file in self._files.items():
            file.write(",".join(TABLES[table]) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, batch: Batch) -> None:
        """Write rows of one table."""
        columns = [_fields(values) for values in batch.columns.values()]
        lines = "\n".join(map(",".join, zip(*columns, strict=True)))
        self._files[batch.table].write(lines + "\n")


class JsonLines:
    """One JSON Lines file for all tables; each row has its table in the key `table`.

    A non-finite value is written as the string "NaN", "Infinity" or "-Infinity".

    Args:
        file: a file open for writing.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder().encode_lines
        self._rows = {
            table: msgspec.defstruct("Row", ["table", *(_FIELDS.get(n, n) for n in columns)],
                                     rename=_COLUMNS, gc=False)
            for table, columns in TABLES.items()
        }  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, batch: Batch) -> None:
        """Write rows of one table."""
        columns = [[batch.table] * len(batch), *map(_named, batch.columns.values())]
        self._file.write(self._encode(list(map(self._rows[batch.table], *columns))))


class TensorBoardFiles:
    """A folder with TensorBoard event files for each run: figures by update, with their time.

    Ranks other than the first have a folder in that of the run.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._source: tuple[str, int | None] | None = None
        self._writer: EventFile | None = None  # only the current file is open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, batch: Batch) -> None:
        """Write rows of the table `figures`."""
        columns: Mapping[str, Any] = {name: _listed(own) for name, own in batch.columns.items()}
        run, rank = source = columns["run"][0], columns["rank"][0]
        if self._writer is None or source != self._source:
            if self._writer is not None:
                self._writer.close()
            folder = self._folder / run / f"rank-{rank}" if rank else self._folder / run
            self._writer, self._source = EventFile(folder), source
        names = ("group", "quantity", "value", "update", "time")
        add = self._writer.add_scalar
        for group, quantity, value, update, time in zip(*map(columns.get, names), strict=True):
            add(f"{group}/{quantity}", value, update, time)


def _listed(values: Iterable[Any]) -> list[Any]:
    as_list: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return as_list


def _fields(values: Any) -> list[str]:
    """Return values as CSV fields (RFC 4180).

    Each distinct value is formatted only once, which takes a tenth of the time of the module `csv`.
    """
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        # Compare bits, because 0.0 equals -0.0 and NaN does not equal NaN.
        unique, places = np.unique(values.view(np.int64), return_inverse=True)
        texts = np.array([repr(one) for one in unique.view(np.float64).tolist()], dtype=object)
        found: list[str] = texts[places].tolist()
        return found
    listed = _listed(values)
    field_of = {one: _field(one) for one in set(listed)}
    return [field_of[one] for one in listed]


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def _named(values: Iterable[Any]) -> list[Any]:
    """Return values as a list, with non-finite floats replaced by strings."""
    listed = _listed(values)
    if isinstance(values, np.ndarray):
        odd = np.flatnonzero(~np.isfinite(values)).tolist() if values.dtype.kind == "f" else []
    else:
        odd = [
            place
            for place, one in enumerate(listed)
            if isinstance(one, float) and not math.isfinite(one)
        ]
    for place in odd:
        one = listed[place]
        listed[place] = "NaN" if math.isnan(one) else "Infinity" if one > 0 else "-Infinity"
    return listed

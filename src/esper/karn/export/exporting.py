"""Exports runs: all their tables into one data set."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from esper.karn.export.columns import TABLES
from esper.karn.export.rows import RunRows
from esper.karn.export.writers import (
    CsvFiles,
    ExportError,
    JsonLines,
    ParquetFiles,
    TensorBoardFiles,
    Writer,
)
from esper.karn.store.errors import RunStoreError

FORMS: Final = ("parquet", "csv", "jsonl", "tensorboard")
STANDARD_OUTPUT: Final = "-"


def tables_of(form: str, out: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the tables to export; by default all that the form has a place for.

    Args:
        form: one of `FORMS`.
        out: where to write.
        names: the tables that were asked for; empty for the default.

    Raises:
        ExportError: a table is unknown, or the form has no place for it.
    """
    for name in names:
        if name not in TABLES:
            raise ExportError(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
    if form == "tensorboard":
        if set(names) - {"figures"}:
            raise ExportError("TensorBoard's files have a place for the table figures only")
        return ("figures",)
    if form == "csv" and out == STANDARD_OUTPUT:
        if len(names) > 1:
            raise ExportError("CSV on standard output is one table: give one name to --tables")
        return tuple(names) or ("figures",)
    return tuple(names) or tuple(TABLES)


def export(
    runs: Sequence[Path],
    form: str,
    out: str,
    tables: Sequence[str],
    report: Callable[[str], None],
    *,
    output: TextIO,
    force: bool = False,
) -> bool:
    """Write the tables of runs; return whether everything of every run is in them.

    Files appear under their names only when they are complete.

    Args:
        runs: directories of the runs.
        form: one of `FORMS`.
        out: a folder (a file for JSON lines), or "-" for standard output.
        tables: their names.
        report: receives what is missing of a run.
        output: standard output.
        force: whether to replace what is there.

    Raises:
        ExportError: `out` cannot be used, or nothing of the only run can be read.
        OSError: a file cannot be written.
    """
    is_whole = True
    with _opened(form, out, tables, force=force, output=output) as writer:
        for run in runs:
            try:
                rows = RunRows(run)
                for batch in rows.batches(tables):
                    writer.write(batch)
            except RunStoreError as error:
                if len(runs) == 1:
                    raise
                report(f"{run.name} is left out: {error}")
                is_whole = False
                continue
            if rows.doubt is not None:
                report(f"{run.name} is not complete: {rows.doubt}")
                is_whole = False
    return is_whole


@contextmanager
def _opened(
    form: str, out: str, tables: Sequence[str], *, force: bool, output: TextIO
) -> Iterator[Writer]:
    if out == STANDARD_OUTPUT:
        # Standard output stays open.
        descriptor = os.dup(output.fileno())
        if form == "jsonl":
            with JsonLines(os.fdopen(descriptor, "wb")) as writer:
                yield writer
        elif form == "csv":
            stream = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
            with CsvFiles(lambda _table: stream, tables) as files:
                yield files
        else:
            os.close(descriptor)
            raise ExportError(f"--to {form} writes several files: give a folder as --out, not -")
        return
    place = Path(out)
    _check_place(place, is_file=form == "jsonl", force=force)
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    try:
        if form == "jsonl":
            with JsonLines(partial.open("wb")) as writer:
                yield writer
        else:
            partial.mkdir()
            with _files_in(partial, form, tables) as files_writer:
                yield files_writer
        if force and place.is_dir():
            shutil.rmtree(place)
        partial.replace(place)
    finally:
        with suppress(OSError):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)


def _files_in(folder: Path, form: str, tables: Sequence[str]) -> Writer:
    if form == "parquet":
        return ParquetFiles(folder, tables)
    if form == "tensorboard":
        return TensorBoardFiles(folder)

    def opened(table: str) -> TextIO:
        return (folder / f"{table}.csv").open("w", encoding="utf-8", newline="")

    return CsvFiles(opened, tables)


def _check_place(place: Path, *, is_file: bool, force: bool) -> None:
    """Check that something may be written under a path.

    Raises:
        ExportError: it is there already, or its folder is not.
    """
    if not place.absolute().parent.is_dir():
        raise ExportError(f"--out {place}: there is no folder {place.parent}")
    if not place.exists():
        return
    if place.is_dir() == is_file:
        kind = "a folder" if is_file else "a file"
        raise ExportError(f"--out {place} is {kind}: choose another name")
    if not force and (is_file or any(place.iterdir())):
        raise ExportError(f"--out {place} exists: choose another name, or replace it by --force")
    if not is_file and not force:
        place.rmdir()  # an empty folder, as `mkdir` left it

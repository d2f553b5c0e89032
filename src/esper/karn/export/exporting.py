"""Exports the tables of one or several runs into one data set."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

from esper.karn.export.columns import TABLES
from esper.karn.export.rows import RunRows
from esper.karn.export.writers import (
    JSON_LINES_BEGIN,
    CsvFiles,
    ExportError,
    JsonLines,
    ParquetFiles,
    TensorBoardFiles,
    Writer,
)
from esper.karn.store.errors import RunStoreError
from esper.leyline.files.tensorboard_files import is_event_file

FORMS: Final = ("parquet", "csv", "jsonl", "tensorboard")
STANDARD_OUTPUT: Final = "-"


def tables_of(form: str, out: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the tables to export.

    Args:
        form: one of `FORMS`.
        out: destination path, or "-".
        names: the requested tables; empty for all that the format supports.

    Raises:
        ExportError: a table does not exist, or the format does not support it.
    """
    for name in names:
        if name not in TABLES:
            raise ExportError(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
    if form == "tensorboard":
        if set(names) - {"figures"}:
            raise ExportError("--to tensorboard can only export the table figures")
        return ("figures",)
    if form == "csv" and out == STANDARD_OUTPUT:
        if len(names) > 1:
            raise ExportError(
                "only one table can be written to standard output as CSV: give one name to --tables"
            )
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
    """Export tables of runs; return whether all data of all runs was exported.

    Files get their final names only when they are complete.

    Args:
        runs: directories of the runs.
        form: one of `FORMS`.
        out: a folder (for JSON Lines, a file), or "-" for standard output.
        tables: names of the tables.
        report: receives a sentence for each run with missing data.
        output: standard output.
        force: whether to replace an existing export.

    Raises:
        ExportError: `out` cannot be used, or two runs have the same id.
        RunStoreError: `runs` is a single run, and its store cannot be read.
        OSError: a file cannot be written.
    """
    folders: dict[str, Path] = {}
    for run in runs:
        if (other := folders.setdefault(run.name, run)) != run:
            raise ExportError(
                f"{other} and {run} have the same id, so their rows would be mixed: export them "
                "separately"
            )
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
            if rows.missing is not None:
                report(f"{run.name} is not complete: {rows.missing}")
                is_whole = False
    return is_whole


@contextmanager
def _opened(
    form: str, out: str, tables: Sequence[str], *, force: bool, output: TextIO
) -> Iterator[Writer]:
    if out == STANDARD_OUTPUT:
        # Duplicate the descriptor, so that standard output stays open.
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
            raise ExportError(f"--to {form} writes several files: --out must be a folder, not -")
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
    """Check that an export may be written to a path.

    Raises:
        ExportError: the path exists, or its parent folder does not.
    """
    if not place.absolute().parent.is_dir():
        raise ExportError(f"--out {place}: there is no folder {place.parent}")
    if not place.exists():
        return
    if place.is_dir() == is_file:
        kind = "a folder" if is_file else "a file"
        raise ExportError(f"--out {place} is {kind}: choose another name")
    is_empty = not is_file and not place.is_symlink() and not any(place.iterdir())
    if not force and not is_empty:
        raise ExportError(f"--out {place} exists: choose another name, or replace it with --force")
    if not is_empty and not _is_export(place):
        raise ExportError(
            f"--out {place} contains files that are not from an export, so --force does not "
            "replace it: choose another name"
        )
    if is_empty:
        place.rmdir()  # an empty folder may be used


def _is_export(place: Path) -> bool:
    """Return whether a path contains only exported files, so that replacing it loses nothing."""
    if place.is_symlink():
        return False
    if place.is_dir():
        return all(_is_exported(one) for one in place.iterdir())
    if not place.is_file():
        return False  # a device or a pipe
    with place.open("rb") as file:
        return file.read(len(JSON_LINES_BEGIN)) in (b"", JSON_LINES_BEGIN)


def _is_exported(entry: Path) -> bool:
    if entry.is_symlink():
        return False
    if entry.is_dir():
        # A folder of a run may have folders of its ranks.
        return all(
            is_event_file(one) or (one.is_dir() and _is_exported(one)) for one in entry.iterdir()
        )
    return entry.stem in TABLES and entry.suffix in (".parquet", ".csv")

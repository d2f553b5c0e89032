"""`esper export`: write tables of runs as Parquet, CSV, JSON Lines or TensorBoard files."""

import argparse
import sys
from typing import Any

from esper.commands.options import OptionError, add_run_dir, add_verb
from esper.commands.output import print_warning
from esper.karn.store.run_directory import find_run, run_directories


def add_export(verbs: Any) -> None:
    """Add `export` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "export",
        _export,
        "write figures, lights, evidence, settings and host curves of runs as Parquet, CSV, JSON "
        "Lines or TensorBoard files; exit code 1 if some data could not be read",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="runs: ids, unique prefixes, names or paths (default: the newest)",
    )
    add_run_dir(parser)
    parser.add_argument("--all", action="store_true", help="export all runs in the folder")
    parser.add_argument(
        "--to",
        required=True,
        choices=("parquet", "csv", "jsonl", "tensorboard"),
        metavar="FORMAT",
        help="parquet, csv, jsonl or tensorboard",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a new folder, or a new file for jsonl; - is standard output (jsonl, or one table as "
        "csv)",
    )
    parser.add_argument(
        "--tables",
        default="",
        metavar="LIST",
        help="tables to export, separated by commas: figures, latches, evidence, sightings, "
        "settings, hosts (default: all; only figures for tensorboard and for csv on standard "
        "output)",
    )
    parser.add_argument("--force", action="store_true", help="replace the export at PATH")


def _export(options: argparse.Namespace) -> int:
    if options.all and options.runs:
        raise OptionError("--all cannot be combined with RUN")
    if options.all:
        runs = run_directories(options.run_dir)
        if not runs:
            raise OptionError(f"there is no run in {options.run_dir}")
    else:
        references = list(dict.fromkeys(options.runs)) or [None]
        runs = list(dict.fromkeys(find_run(options.run_dir, one) for one in references))
    from esper.karn.export.exporting import export, tables_of
    from esper.karn.export.writers import check_library

    check_library(options.to)
    names = [name for name in options.tables.split(",") if name]
    tables = tables_of(options.to, options.out, names)
    try:
        is_whole = export(
            runs,
            options.to,
            options.out,
            tables,
            print_warning,
            output=sys.stdout,
            force=options.force,
        )
    except OSError as error:
        if options.out == "-":
            raise
        place = error.filename or options.out
        raise OptionError(f"cannot write {place}: {error.strerror or error}") from error
    return 0 if is_whole else 1

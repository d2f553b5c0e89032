"""`esper query`: run a read-only SQL query on the store of a run."""

import argparse
import csv
import sys
from typing import Any

from esper.commands.options import OptionError, add_run_dir, add_verb, whole_number
from esper.commands.output import print_report, print_warning
from esper.karn.store.run_directory import find_run
from esper.leyline.text.json_text import json_text


def add_query(verbs: Any) -> None:
    """Add `query` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "query",
        _query,
        "run a read-only SQL query (SELECT) on the store of a run, or on those of all its ranks; "
        "exit code 1 if the store of a rank could not be queried",
    )
    parser.add_argument(
        "run",
        metavar="RUN",
        help="a run: an id, a unique prefix, a name or a path; '' is the newest",
    )
    parser.add_argument(
        "sql", metavar="SQL", help='a query, such as "SELECT head, kind, first_update FROM latches"'
    )
    add_run_dir(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument(
        "--limit",
        type=whole_number,
        default=1000,
        metavar="N",
        help="maximum number of rows to print; a warning says if there are more (default: "
        "%(default)s)",
    )


def _query(options: argparse.Namespace) -> int:
    if options.limit < 1:
        raise OptionError(f"--limit must be at least 1, not {options.limit}")
    run = find_run(options.run_dir, options.run or None)
    from esper.karn.store.reading.queries import query_run

    result = query_run(run, options.sql, options.limit)
    rows = [[_shown(value) for value in row] for row in result.rows]
    if options.json:
        twice = sorted({one for one in result.columns if result.columns.count(one) > 1})
        if twice:
            raise OptionError(f"two columns are named {twice[0]!r}: rename one with AS")
        named = [dict(zip(result.columns, row, strict=True)) for row in rows]
        print(json_text({"run": run.name, "rows": named, "cut": result.is_cut}))
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([result.columns, *rows])
    else:
        _print_table(result.columns, rows)
    if result.is_cut:
        shown = "1 row is" if options.limit == 1 else f"{options.limit} rows are"
        print_warning(f"only {shown} shown; there are more (see --limit)")
    for sentence in result.missing:
        print_warning(sentence)
    return 1 if result.missing else 0


def _shown(value: Any) -> Any:
    """Return a value for display; bytes, such as an event's payload, become "<N bytes>"."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value


def _print_table(columns: tuple[str, ...], rows: list[list[Any]]) -> None:
    from rich.console import Group
    from rich.text import Text

    from esper.karn.reports.report_lines import column_lines

    cells = [[Text("" if value is None else str(value)) for value in row] for row in rows]
    print_report(Group(*column_lines(cells, columns)))

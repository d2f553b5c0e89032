"""`esper runs`: list all runs, or those that match a filter."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.options import add_run_dir, add_verb
from esper.commands.output import print_report

if TYPE_CHECKING:
    from rich.console import Console

#: Help text for filters.
FILTER_HELP = (
    "selects runs, for example lit:op, status:dead, seed:3, score>=0.7, learning_rate>=1e-3, "
    "not:lit, or a part of a name; a run must match all filters"
)
_ALL = "\0"  # --funnel without a setting


def add_runs(verbs: Any) -> None:
    """Add `runs` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "runs", _runs, "list all runs with status, score, and heads that produced NaN or Inf"
    )
    parser.add_argument("filter", nargs="*", metavar="FILTER", help=FILTER_HELP)
    parser.add_argument(
        "--sort",
        default="",
        metavar="NAME",
        help="order: newest, score, best, incidents, status, name, a figure or a setting; "
        "--sort=-NAME reverses it (default: oldest first)",
    )
    parser.add_argument(
        "--funnel",
        nargs="?",
        const=_ALL,
        metavar="SETTING",
        help="instead of the list, print how many runs have a light, which light came on first and "
        "when, optionally grouped by the values of a setting",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_run_dir(parser)


def _runs(options: argparse.Namespace) -> int:
    return print_runs(
        options.run_dir,
        options.filter,
        sort=options.sort,
        funnel=options.funnel is not None,
        funnel_by=None if options.funnel == _ALL else options.funnel,
        as_json=options.json,
    )


def print_runs(
    run_dir: Path,
    filters: Sequence[str] = (),
    *,
    sort: str = "",
    funnel: bool = False,
    funnel_by: str | None = None,
    as_json: bool = False,
    console: "Console | None" = None,
) -> int:
    """Print a line for each run in a folder, or their funnel; return 0.

    Args:
        run_dir: the folder that contains runs.
        filters: filters, which must all match.
        sort: name of an order; empty for oldest first.
        funnel: whether to print the funnel instead of the runs; with `as_json`, both are printed.
        funnel_by: the setting to group the funnel by; None for one group.
        as_json: whether to print JSON instead of text.
        console: output console; standard output by default.

    Raises:
        QueryError: a filter, the order or the funnel's setting is invalid.
        RunNotFoundError: the folder cannot be listed.
    """
    from esper.karn.reports.run_folder.run_query import parse_query
    from esper.karn.reports.runs import read_runs, runs_json, runs_text

    query = parse_query(filters, sort=sort)  # reject bad input before reading
    listed = read_runs(run_dir, query, funnel=funnel, funnel_by=funnel_by)
    print_report(runs_json(listed) if as_json else runs_text(listed), console)
    return 0

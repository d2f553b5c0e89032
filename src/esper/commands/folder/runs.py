"""`esper runs`: list all runs, or those that a filter selects."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.options import add_run_dir, add_verb
from esper.commands.output import print_report

if TYPE_CHECKING:
    from rich.console import Console

#: What a filter can be, for the help.
FILTER_HELP = (
    "which runs, for example lit:op, status:dead, seed:3, score>=0.7, learning_rate>=1e-3, "
    "not:lit, or a part of a name; all must match"
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
        help="newest, score, best, incidents, status, name, a figure or a setting; -NAME, written "
        "--sort=-NAME, reverses it (default: oldest first)",
    )
    parser.add_argument(
        "--funnel",
        nargs="?",
        const=_ALL,
        metavar="SETTING",
        help="print instead how many runs lit, what lit first and when, by the values of a setting",
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
        run_dir: the folder that holds runs.
        filters: words of a query; all must match.
        sort: name of an order; empty for oldest first.
        funnel: whether to print the funnel of the runs; with `as_json`, in addition to them.
        funnel_by: the setting whose values make its groups; None for one group.
        as_json: whether to print JSON instead of text.
        console: where to print; standard output by default.

    Raises:
        QueryError: a filter, the order or the setting of the funnel cannot be used.
        RunNotFoundError: the folder cannot be listed.
    """
    from esper.karn.reports.run_folder.run_query import parse_query
    from esper.karn.reports.runs import read_runs, runs_json, runs_text

    query = parse_query(filters, sort=sort)  # bad input is refused before anything is read
    listed = read_runs(run_dir, query, funnel=funnel, funnel_by=funnel_by)
    print_report(runs_json(listed) if as_json else runs_text(listed), console)
    return 0

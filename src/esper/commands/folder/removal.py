"""`esper archive` and `esper prune`: move or delete runs that have ended."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.folder.runs import FILTER_HELP
from esper.commands.options import OptionError, add_run_dir, add_verb
from esper.commands.output import print_report, print_warning

if TYPE_CHECKING:
    from esper.karn.reports.run_folder.removal_rules import RemovalPlan, RemovalRules
    from esper.karn.reports.run_folder.run_summary import RunSummary

#: Maximum number of runs listed by name.
_NAMED = 40
#: Exit code if some runs could not be moved or deleted.
_SOME_STAYED = 1


def add_archive(verbs: Any) -> None:
    """Add `archive` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "archive",
        _archive,
        "move runs that have ended to another folder (only list them unless --yes is given)",
    )
    _add_common(parser)
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FOLDER",
        help="destination, on the same file system (default: `archive` in the run folder)",
    )


def add_prune(verbs: Any) -> None:
    """Add `prune` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "prune",
        _prune,
        "delete runs that have ended without a light (only list them unless --yes is given)",
    )
    _add_common(parser)
    parser.add_argument(
        "--lit",
        action="store_true",
        help="also delete runs with a light (Inf, NaN, stalled) and damaged runs that may have had "
        "one",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filter", nargs="*", metavar="FILTER", help=FILTER_HELP)
    parser.add_argument(
        "--older-than",
        type=_days,
        metavar="DAYS",
        help="only runs whose store has not changed for this many days",
    )
    parser.add_argument("--yes", action="store_true", help="do it instead of listing the runs")
    add_run_dir(parser)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of days, not {text!r}")
    return days


def _archive(options: argparse.Namespace) -> int:
    from esper.karn.reports.run_folder.removal_rules import RemovalRules
    from esper.karn.store.run_removal import move_run

    folder = options.to or options.run_dir / "archive"
    plan, rules = _planned(options, RemovalRules(True, options.older_than))
    _print_plan(plan, "move", f" to {folder}", is_done=options.yes)
    if not options.yes:
        return 0
    return _do(plan.going, rules, "moved", lambda run: move_run(run.path, folder))


def _prune(options: argparse.Namespace) -> int:
    from esper.karn.reports.run_folder.removal_rules import RemovalRules
    from esper.karn.store.run_removal import finish_removals, removals_begun, remove_run

    begun = removals_begun(options.run_dir)
    plan, rules = _planned(options, RemovalRules(options.lit, options.older_than))
    if begun:
        does = "finishing that now" if options.yes else "--yes finishes that first"
        names = ", ".join(begun[:_NAMED])
        print_report(f"an earlier esper prune was interrupted while deleting {names}; {does}")
    _print_plan(plan, "remove", "", is_done=options.yes)
    if not options.yes:
        return 0
    finish_removals(options.run_dir)
    return _do(plan.going, rules, "removed", lambda run: remove_run(run.path))


def _planned(
    options: argparse.Namespace, rules: "RemovalRules"
) -> "tuple[RemovalPlan, RemovalRules]":
    """Return the removal plan for the selected runs, and the rules.

    Raises:
        OptionError: no filter is given.
        QueryError: a filter is invalid.
    """
    from esper.karn.reports.run_catalogue import list_runs
    from esper.karn.reports.run_folder.removal_rules import plan_removal
    from esper.karn.reports.run_folder.run_query import parse_query

    query = parse_query(options.filter)
    if not query.terms and options.older_than is None:
        raise OptionError("give a filter, such as status:dead or not:lit, or --older-than DAYS")
    return plan_removal(query.select(list_runs(options.run_dir)), rules), rules


def _print_plan(plan: "RemovalPlan", verb: str, where: str, *, is_done: bool) -> None:
    from rich.console import Group
    from rich.text import Text

    from esper.karn.reports.report_lines import column_lines
    from esper.karn.reports.run_folder.removal_rules import LIT, MAYBE_LIT
    from esper.karn.store.run_removal import bytes_of
    from esper.karn.text.figures import bytes_text
    from esper.karn.text.palette import TERMINAL
    from esper.karn.text.status_text import status_text
    from esper.leyline.text.plurals import counted

    sizes = [bytes_of(run.path) for run in plan.going]
    lines = []
    if not is_done:
        rows = [
            [Text(run.run_id), status_text(run.status, TERMINAL), Text(bytes_text(size))]
            for run, size in zip(plan.going[:_NAMED], sizes, strict=False)
        ]
        lines += column_lines(rows, ("run", "status", "size")) if rows else []
        if more := len(plan.going) - _NAMED:
            lines += [Text(f"and {more} more")] if more > 0 else []
    total = f"{counted(len(plan.going), 'run')}, {bytes_text(sum(sizes))}" if sizes else "no run"
    does = f"to {verb}:" if is_done else f"would {verb}"
    say = "" if is_done or not sizes else f"; add --yes to {verb}"
    lines.append(Text(f"{does} {total}{where}{say}", style="bold"))
    for reason, number in plan.reasons().items():
        hint = "; --lit includes them" if reason in (LIT, MAYBE_LIT) else ""
        lines.append(Text(f"kept: {counted(number, 'run')}, {reason}{hint}", style="dim"))
    print_report(Group(*lines))


def _do(runs: "Sequence[RunSummary]", rules: "RemovalRules", done: str, action: Any) -> int:
    """Apply an action to each run after checking the run again; return the exit code."""
    from esper.karn.reports.run_folder.removal_rules import reason_to_stay_now
    from esper.karn.store.run_removal import RemovalError

    code = 0
    for run in runs:
        if (reason := reason_to_stay_now(run, rules)) is not None:
            print_warning(f"{run.run_id} is kept: {reason}")
            code = _SOME_STAYED
            continue
        try:
            action(run)
        except RemovalError as error:
            print_warning(str(error))
            code = _SOME_STAYED
        else:
            print_report(f"{done} {run.run_id}")
    return code

"""`esper health`: which heads of a run ever produced NaN or Inf."""

import argparse
from typing import Any

from esper.commands.options import add_run, add_run_dir, add_verb
from esper.karn.reports.fail_on import latch_kinds
from esper.karn.store.run_directory import find_run


def add_health(verbs: Any) -> None:
    """Add `health` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "health",
        _health,
        "show which heads ever produced NaN or Inf; exit code 1 if any did, or if a watched run "
        "stood still",
    )
    add_run(parser)
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--fail-on",
        default="inf,nan,stalled",
        metavar="KINDS",
        help="what makes the exit code 1: inf, nan, stalled, several of them with commas, or '' "
        "for nothing "
        "(default: %(default)s)",
    )


def _health(options: argparse.Namespace) -> int:
    latch_kinds(options.fail_on)
    find_run(options.run_dir, options.run)
    from esper.karn.reports.health import (
        print_health,  # bad input was refused before this is loaded
    )

    return print_health(options.run_dir, options.run, as_json=options.json, fail_on=options.fail_on)

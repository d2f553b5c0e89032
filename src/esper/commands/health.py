"""`esper health`: which heads of a run ever produced NaN or Inf."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.options import add_run, add_run_dir, add_verb
from esper.commands.output import print_report
from esper.karn.reports.fail_on import latch_kinds
from esper.karn.store.errors import RunStoreError
from esper.karn.store.run_directory import find_run
from esper.leyline.text.json_text import json_text

if TYPE_CHECKING:
    from rich.console import Console


def add_health(verbs: Any) -> None:
    """Add `health` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "health",
        _health,
        "show which heads ever produced NaN or Inf; exit code 1 if any did, or if a watched run "
        "stalled",
    )
    add_run(parser)
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--fail-on",
        default="inf,nan,stalled",
        metavar="KINDS",
        help="lights that cause exit code 1: inf, nan, stalled, separated by commas, or '' for "
        "none (default: %(default)s)",
    )


def _health(options: argparse.Namespace) -> int:
    return print_health(options.run_dir, options.run, as_json=options.json, fail_on=options.fail_on)


def print_health(
    run_dir: Path,
    reference: str | None = None,
    *,
    as_json: bool = False,
    fail_on: str = "inf,nan,stalled",
    console: "Console | None" = None,
) -> int:
    """Print the health of one run; return 1 if a latch of a kind in `fail_on` is set, else 0.

    If the run is not completely known, a latch that is not set is unknown.

    Args:
        run_dir: the folder that holds runs.
        reference: an id, a unique prefix of an id, a name or a path; None for the newest run.
        as_json: whether to print JSON instead of text.
        fail_on: `inf`, `nan`, `stalled`, several of them with commas between, or nothing.
        console: where to print; standard output by default.

    Raises:
        RunNotFoundError: no run, or more than one, matches `reference`.
        RunStoreError: the run's store cannot be read, or none of these latches is set and the run
            is not completely known. In the second case the report was printed.
        FailOnError: `fail_on` has an unknown kind.
    """
    kinds = latch_kinds(fail_on)
    directory = find_run(run_dir, reference)
    from esper.karn.reports.health import health_as_json, health_text, read_health

    health = read_health(directory)
    if as_json:
        print_report(json_text(health_as_json(health)), console)
    else:
        print_report(health_text(health), console, wraps_in_pipes=False)
    if any(map(health.is_set, kinds)):
        return 1
    if kinds and health.doubt is not None:
        raise RunStoreError(f"the health of {health.run_id} is unknown: {health.doubt}")
    return 0

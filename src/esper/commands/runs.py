"""`esper runs`: list all runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.options import add_run_dir, add_verb
from esper.commands.output import print_report

if TYPE_CHECKING:
    from rich.console import Console


def add_runs(verbs: Any) -> None:
    """Add `runs` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "runs", _runs, "list all runs with status, score, and heads that produced NaN or Inf"
    )
    add_run_dir(parser)


def _runs(options: argparse.Namespace) -> int:
    return print_runs(options.run_dir)


def print_runs(run_dir: Path, *, console: "Console | None" = None) -> int:
    """Print a line for each run in a folder, oldest first; return 0."""
    from esper.karn.reports.runs import runs_text

    print_report(runs_text(run_dir), console)
    return 0

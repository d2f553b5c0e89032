"""`esper runs`: list all runs."""

import argparse
from typing import Any

from esper.commands.options import add_run_dir, add_verb


def add_runs(verbs: Any) -> None:
    """Add `runs` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "runs", _runs, "list all runs with status, score, and heads that produced NaN or Inf"
    )
    add_run_dir(parser)


def _runs(options: argparse.Namespace) -> int:
    from esper.karn.reports.runs import print_runs

    return print_runs(options.run_dir)

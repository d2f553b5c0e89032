"""`esper incidents`: list the updates of a run that were not finite."""

import argparse
from typing import Any

from esper.commands.options import add_run, add_run_dir, add_verb


def add_incidents(verbs: Any) -> None:
    """Add `incidents` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "incidents", _incidents, "list the updates of a run in which NaN or Inf was seen"
    )
    add_run(parser)
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _incidents(options: argparse.Namespace) -> int:
    from esper import incident_reports

    return incident_reports.print_incidents(options.run_dir, options.run, as_json=options.json)

"""`esper telemetry`: list the telemetry records, or show one."""

import argparse
from typing import Any

from esper.commands.options import add_verb


def add_telemetry(verbs: Any) -> None:
    """Add `telemetry` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "telemetry", _telemetry, "list the quantities that Esper records, or describe one"
    )
    parser.add_argument(
        "record", nargs="?", metavar="RECORD", help="id of a telemetry record, for example TELE-303"
    )


def _telemetry(options: argparse.Namespace) -> int:
    from esper.karn.reports.telemetry import print_telemetry

    return print_telemetry(options.record)

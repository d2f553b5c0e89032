"""`esper telemetry`: list the telemetry records, or show one."""

import argparse
from typing import TYPE_CHECKING, Any

from esper.commands.options import add_verb
from esper.commands.output import print_report

if TYPE_CHECKING:
    from rich.console import Console


def add_telemetry(verbs: Any) -> None:
    """Add `telemetry` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "telemetry", _telemetry, "list the quantities that Esper records, or describe one"
    )
    parser.add_argument(
        "record", nargs="?", metavar="RECORD", help="id of a telemetry record, for example TELE-303"
    )


def _telemetry(options: argparse.Namespace) -> int:
    return print_telemetry(options.record)


def print_telemetry(reference: str | None = None, *, console: "Console | None" = None) -> int:
    """Print the list of telemetry records, or one record with its wiring; return 0.

    Raises:
        UnknownRecordError: there is no record of that id.
    """
    from esper.karn.reports.telemetry import record_text, records_text
    from esper.leyline.records import find_record

    report = records_text() if reference is None else record_text(find_record(reference))
    print_report(report, console)
    return 0

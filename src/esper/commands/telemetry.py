"""`esper telemetry`: list the telemetry records, or show one."""

import argparse
from typing import TYPE_CHECKING, Any

from esper.commands.options import add_verb
from esper.commands.output import print_report
from esper.leyline.text.json_text import json_text

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
    parser.add_argument("--json", action="store_true", help="print JSON")


def _telemetry(options: argparse.Namespace) -> int:
    return print_telemetry(options.record, as_json=options.json)


def print_telemetry(
    reference: str | None = None, *, as_json: bool = False, console: "Console | None" = None
) -> int:
    """Print the list of telemetry records, or one record with its wiring; return 0.

    As JSON, both have whole records.

    Raises:
        UnknownRecordError: there is no record of that id.
    """
    from esper.karn.reports.telemetry import record_as_json, record_text, records_text
    from esper.leyline.records import RECORDS, find_record

    record = None if reference is None else find_record(reference)
    if as_json:
        chosen = RECORDS if record is None else (record,)
        print_report(json_text({"records": [record_as_json(one) for one in chosen]}), console)
    else:
        print_report(records_text() if record is None else record_text(record), console)
    return 0

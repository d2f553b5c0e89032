"""`esper telemetry`: the telemetry records, listed, shown or written as pages."""

import argparse
from pathlib import Path
from typing import Any

from esper.commands.options import add_verb


def add_telemetry(verbs: Any) -> None:
    """Add `telemetry` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "telemetry", _telemetry, "list the telemetry records, or show one with its wiring"
    )
    parser.add_argument(
        "record", nargs="?", metavar="RECORD", help="a record's id, for example TELE-303"
    )
    parser.add_argument(
        "--write-docs", type=Path, metavar="DIR", help="write one page per record into DIR"
    )


def _telemetry(options: argparse.Namespace) -> int:
    from esper.karn import reports

    if options.write_docs is not None:
        return reports.write_telemetry_docs(options.write_docs)
    return reports.print_telemetry(options.record)

"""The report of `esper telemetry`: the telemetry records."""

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from esper.karn.reports.report_lines import column_lines, named_rows
from esper.karn.reports.telemetry_docs import facts, proofs, wiring
from esper.leyline.records import RECORDS
from esper.leyline.records.record import TelemetryRecord


def records_text() -> Group:
    """Return the list of all telemetry records."""
    rows = [[Text(one.id), Text(one.name), Text(one.question)] for one in RECORDS]
    return Group(*column_lines(rows, ("id", "name", "question")))


def record_as_json(record: TelemetryRecord) -> dict[str, Any]:
    """Return one telemetry record as plain values; keys are only ever added."""
    return {**asdict(record), "proven_by": proofs(record)}


def record_text(record: TelemetryRecord) -> Group:
    """Return one telemetry record with its wiring."""
    causes = [Padding(Text(cause), (0, 0, 0, 2), expand=False) for cause in record.causes]
    return Group(
        Text(f"{record.id}  {record.name}", style="bold"),
        Text(record.question, style="italic"),
        Text(),
        Text(record.meaning),
        Text(),
        *column_lines(named_rows(facts(record))),
        *([Text("\nusual causes", style="bold")] if causes else []),
        *causes,
        Text("\nwiring", style="bold"),
        *column_lines(named_rows(wiring(record))),
        Text("\nproven by", style="bold"),
        *column_lines([[Text(f"  {test}")] for test in proofs(record)]),
    )

"""Telemetry records: the contract of every field that Sanctum shows. Each field has a record."""

from typing import Final

from esper.leyline.errors import EsperError
from esper.leyline.records.decision_records import DECISION_RECORDS
from esper.leyline.records.head_records import HEAD_INF_LATCH, HEAD_NAN_LATCH, HEAD_RECORDS
from esper.leyline.records.host_records import HOST_RECORDS
from esper.leyline.records.intervention_records import INTERVENTION_RECORDS
from esper.leyline.records.machine_records import MACHINE_RECORDS
from esper.leyline.records.monitor_records import MONITOR_RECORDS
from esper.leyline.records.record import TelemetryRecord, Wiring
from esper.leyline.records.run_records import RUN_RECORDS
from esper.leyline.records.update_records import UPDATE_RECORDS
from esper.leyline.records.watch_records import WATCH_RECORDS
from esper.leyline.text.command_lines import command_line
from esper.leyline.thresholds import Thresholds

__all__ = [
    "HEAD_INF_LATCH",
    "HEAD_NAN_LATCH",
    "RECORDS",
    "TelemetryRecord",
    "Thresholds",
    "UnknownRecordError",
    "Wiring",
    "find_record",
    "record_of",
]

#: All records, in the order of their ids.
RECORDS: Final[tuple[TelemetryRecord, ...]] = tuple(
    sorted(
        (
            *RUN_RECORDS,
            *MACHINE_RECORDS,
            *MONITOR_RECORDS,
            *INTERVENTION_RECORDS,
            *UPDATE_RECORDS,
            *HEAD_RECORDS,
            *HOST_RECORDS,
            *DECISION_RECORDS,
            *WATCH_RECORDS,
        ),
        key=lambda record: record.id,
    )
)
_BY_SNAPSHOT_PATH: Final = {record.wiring.snapshot: record for record in RECORDS}


class UnknownRecordError(EsperError, ValueError):
    """There is no telemetry record with that id or path."""


def find_record(reference: str) -> TelemetryRecord:
    """Return the record with an id, written `TELE-303`, `tele-303` or `303`.

    Raises:
        UnknownRecordError: there is none; the message names the range of ids.
    """
    wanted = reference.strip().upper()
    wanted = wanted if wanted.startswith("TELE-") else f"TELE-{wanted}"
    for record in RECORDS:
        if record.id == wanted:
            return record
    raise UnknownRecordError(
        f"there is no telemetry record {reference!r}: ids run from {RECORDS[0].id} to "
        f"{RECORDS[-1].id}, and `{command_line('esper', 'telemetry')}` lists them"
    )


def record_of(snapshot_path: str) -> TelemetryRecord:
    """Return the record of a field of the snapshot by its path, such as `training.entropy`.

    Raises:
        UnknownRecordError: the field has no record.
    """
    record = _BY_SNAPSHOT_PATH.get(snapshot_path)
    if record is None:
        raise UnknownRecordError(f"there is no telemetry record of {snapshot_path!r}")
    return record

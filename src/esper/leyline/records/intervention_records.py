"""Records of what was done about updates that were not finite, and kept of them (TELE-13x)."""

from typing import Final

from esper.leyline.records.record import AGGREGATOR, TelemetryRecord, Wiring
from esper.leyline.thresholds import Thresholds

_INTERVENE: Final = "esper.simic.training.faults.recovery:Recovery.respond"
_RECORD_INCIDENT: Final = "esper.simic.training.faults.incident_recording:record_incident"
_LEDGER: Final = "esper.simic.replay.incidents:IncidentLedger.record"


def _record(
    number: int,
    name: str,
    question: str,
    meaning: str,
    *,
    snapshot: str,
    label: str,
    payload: str = "InterventionTaken.action",
    handler: str = "_handle_intervention_taken",
    source: str = "esper.simic.training.faults.intervention:Escalation.after_bad",
    emission: str = _INTERVENE,
    unit: str = "updates",
    causes: tuple[str, ...] = ("see TELE-302 and TELE-303",),
    companions: tuple[str, ...] = (),
) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=name,
        category="intervention",
        priority="P0",
        question=question,
        audience=("operator", "developer", "automation"),
        when="after an update that was not finite",
        type="int",
        unit=unit,
        range="0 upwards",
        default="0",
        meaning=meaning,
        causes=causes,
        thresholds=Thresholds(healthy="0"),
        wiring=Wiring(
            source=source,
            emission=emission,
            payload=payload,
            aggregation=f"{AGGREGATOR}.{handler}",
            snapshot=f"interventions.{snapshot}",
            widget="esper.karn.sanctum.frame.run_header:RunHeader",
            label=label,
        ),
        companions=companions,
    )


INTERVENTION_RECORDS: Final = (
    _record(
        131,
        "Updates Skipped",
        "In how many updates were bad minibatches skipped?",
        "Updates whose bad minibatches were skipped, while the optimizer stepped on the others. "
        "Updates that a resume repeats are counted again.",
        snapshot="updates_skipped",
        label="skipped",
        companions=("TELE-132", "TELE-133", "TELE-209"),
    ),
    _record(
        132,
        "Updates Rolled Back",
        "How often was a whole update undone?",
        "Updates after which weights, optimizer and schedules were restored to the last finite "
        "state, as set by --on-nonfinite or because skipping did not help.",
        snapshot="updates_rolled_back",
        label="rolled back",
        companions=("TELE-131", "TELE-133"),
    ),
    _record(
        133,
        "Halts",
        "Did non-finite values ever halt this run?",
        "Number of times the run restored its last finite state and ended. A halted run can be "
        "resumed.",
        snapshot="halts",
        label="halted",
        companions=("TELE-101", "TELE-132"),
    ),
    _record(
        134,
        "Incidents",
        "How many updates of this run were not finite?",
        "Incidents recorded, including those without a capsule.",
        snapshot="incidents",
        label="incidents",
        payload="IncidentRecorded.number",
        handler="_handle_incident_recorded",
        source=_LEDGER,
        emission=_RECORD_INCIDENT,
        unit="incidents",
        companions=("TELE-135",),
    ),
    _record(
        135,
        "Incidents Not Kept",
        "How many incidents cannot be replayed?",
        "Incidents without a complete capsule on the disk. The first of each kind of fault is "
        "always kept, unless writing fails; the log says why a capsule is missing.",
        snapshot="incidents_not_kept",
        label="not kept",
        payload="IncidentRecorded.path",
        handler="_handle_incident_recorded",
        source=_LEDGER,
        emission=_RECORD_INCIDENT,
        unit="incidents",
        causes=(
            "more similar incidents than --incidents-kept",
            "a full disk",
            "a capsule was removed",
        ),
        companions=("TELE-134",),
    ),
    TelemetryRecord(
        id="TELE-136",
        name="List Of Incidents",
        category="intervention",
        priority="P0",
        question="Which updates were not finite, and can they be replayed?",
        audience=("operator", "developer", "automation"),
        when="after an update that was not finite",
        type="tuple[IncidentState, ...]",
        unit="incidents",
        range="the last 256, and of more those first that have a capsule",
        default="no incident",
        meaning="Update, number and capsule of each incident, or why no capsule was kept.",
        causes=("see TELE-302 and TELE-303",),
        thresholds=Thresholds(healthy="none"),
        wiring=Wiring(
            source=_LEDGER,
            emission=_RECORD_INCIDENT,
            payload="IncidentRecorded.update",
            aggregation=f"{AGGREGATOR}._handle_incident_recorded",
            snapshot="incidents",
            widget="esper.karn.sanctum.heads.incident_panel:IncidentPanel",
            label="update",
        ),
        companions=("TELE-134", "TELE-135", "TELE-318"),
    ),
    _record(
        137,
        "Updates Repeated",
        "In how many updates did a non-finite value not occur again?",
        "Updates that were undone and repeated because a figure was not finite, and whose second "
        "pass was finite. The second pass is kept, and no minibatch is skipped. The cause is a "
        "transient fault (a flipped bit, a race), which replay cannot find.",
        snapshot="updates_repeated",
        label="repeated",
        causes=("a memory or transfer error", "a kernel whose result depends on timing"),
        companions=("TELE-131", "TELE-318"),
    ),
)

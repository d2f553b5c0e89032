"""Records of the monitor itself: what it lost, its log and the console (TELE-121 to TELE-125)."""

from typing import Final

from esper.leyline.records.record import AGGREGATOR, TelemetryRecord, Wiring
from esper.leyline.records.run_records import run_record
from esper.leyline.thresholds import Thresholds

_READER: Final = "esper.karn.store.reading.run_reader:RunReader.read"


def _counted_damage(
    number: int,
    name: str,
    question: str,
    meaning: str,
    *,
    payload: str,
    handler: str,
    snapshot: str,
    label: str,
    source: str,
    causes: tuple[str, ...],
    problem_of_one: str,
    problem_of_many: str,
) -> TelemetryRecord:
    return run_record(
        number,
        name,
        question,
        meaning,
        payload=payload,
        handler=handler,
        snapshot=snapshot,
        label=label,
        source=source,
        emission=source,
        category="monitor",
        type_="int",
        unit="events",
        range_="0 upwards",
        default="0",
        when="when it happens",
        thresholds=Thresholds(
            healthy="0",
            warn_above=0.0,
            problem_of_one=problem_of_one,
            problem_of_many=problem_of_many,
        ),
        causes=causes,
        priority="P0",
    )


MONITOR_RECORDS: Final = (
    _counted_damage(
        121,
        "Events Lost",
        "Did the monitor lose any events?",
        "Events that could not be stored. The lights of updates are kept in other files, too, and "
        "are lost last.",
        payload="Heartbeat.events_lost",
        handler="_handle_heartbeat",
        snapshot="events_lost",
        label="events lost",
        source="esper.karn.store.writing.run_writer:RunWriter.emit",
        causes=("a full disk", "a store that was removed while the run was live"),
        problem_of_one="1 event was lost: it could not be stored",
        problem_of_many="{} events were lost: they could not be stored",
    ),
    _counted_damage(
        122,
        "Damaged Events",
        "Are all stored events readable?",
        "Stored events that cannot be decoded, or that are missing. Each has a line in the log.",
        payload="DamagedPayload.reason",
        handler="_handle_damaged",
        snapshot="damaged_events",
        label="damaged events",
        source=_READER,
        causes=("a failing disk", "a store that was edited by hand"),
        problem_of_one="1 stored event is damaged or missing",
        problem_of_many="{} stored events are damaged or missing",
    ),
    _counted_damage(
        123,
        "Unknown Events",
        "Does this version of Esper know all kinds of events in this run?",
        "Stored events of kinds that a newer version of Esper added. Each kind is logged once.",
        payload="UnknownPayload.kind",
        handler="_handle_unknown",
        snapshot="unknown_events",
        label="unknown events",
        source=_READER,
        causes=("a run written by a newer version of Esper",),
        problem_of_one="1 stored event is of a kind that this version of Esper does not know",
        problem_of_many="{} stored events are of kinds that this version of Esper does not know",
    ),
    TelemetryRecord(
        id="TELE-124",
        name="Event Log",
        category="run",
        priority="P1",
        question="What happened in this run, and when?",
        audience=("operator", "developer"),
        when="with every event that has a line",
        type="tuple[LogEntry, ...]",
        unit="lines",
        range="the last 500 lines each of seeds, lights and all else; the screen Log searches the "
        "store for older ones",
        default="no line",
        meaning="One sentence per event: starts and ends, episodes, lights, interventions, "
        "checkpoints and stages of seeds. Lights, errors and warnings are highlighted.",
        thresholds=Thresholds(healthy="no latch and no error"),
        wiring=Wiring(
            source="esper.simic.training.run_log:RunLog.say",
            emission="esper.karn.store.writing.run_writer:RunWriter.emit",
            payload="Notice.text",
            aggregation=f"{AGGREGATOR}._say",
            snapshot="log",
            widget="esper.karn.sanctum.log.event_log_panel:EventLogPanel",
            label="",
        ),
        companions=("TELE-122", "TELE-123"),
    ),
    TelemetryRecord(
        id="TELE-125",
        name="Console Output",
        category="run",
        priority="P2",
        question="What did the training process print, and which error ended it?",
        audience=("developer",),
        when="whenever the process prints a line",
        type="tuple[str, ...]",
        unit="lines",
        range="the last 200; a search reads the whole file",
        default="no line",
        meaning="The run's console.log, without the control sequences of terminals.",
        thresholds=Thresholds(healthy="no traceback"),
        wiring=Wiring(
            source="esper.launch.training_process:TrainingProcess",
            emission="esper.launch.training_process:TrainingProcess",
            payload="",
            aggregation="esper.karn.store.run_files.console_tail:ConsoleTail.lines",
            snapshot="console",
            holder="View",
            widget="esper.karn.sanctum.log.console_panel:ConsolePanel",
            label="",
        ),
        companions=("TELE-124",),
    ),
)

"""Records of a run that is watched from outside, whatever library trains it (TELE-6xx)."""

from typing import Final

from esper.leyline.records.record import AGGREGATOR, TelemetryRecord, Wiring
from esper.leyline.thresholds import Thresholds

_RECORDER: Final = "esper.recording.run_recorder:RunRecorder"
_WATCH: Final = "esper.watching.watch:Watch"
_OVERVIEW: Final = "esper.karn.sanctum.overview"
_LIGHTS_PANEL: Final = f"{_OVERVIEW}.lights_panel:LightsPanel"
_EVERYONE: Final = ("operator", "developer", "researcher", "automation")
_STILL_CAUSES: Final = (
    "an infinite gradient norm, which clips every gradient to 0",
    "a library that replaces non-finite gradients by zeros before the step",
    "a learning rate of 0, at the end of a schedule or by a mistake",
    "an optimizer that holds other parameters than the model that is trained",
    "a loss scaler that skips every step",
)


def _of_update(field: str, snapshot: str, label: str, widget: str) -> Wiring:
    return Wiring(
        source=f"{_WATCH}.update",
        emission=f"{_RECORDER}.updated",
        payload=f"PPOUpdatePayload.{field}",
        aggregation=f"{AGGREGATOR}._handle_ppo_update",
        snapshot=f"training.{snapshot}",
        widget=widget,
        label=label,
    )


WATCH_RECORDS: Final = (
    TelemetryRecord(
        id="TELE-601",
        name="Watched Library",
        category="run",
        priority="P1",
        question="Which library trains this run, and in which version?",
        audience=("operator", "developer", "researcher"),
        when="when the run starts",
        type="str",
        unit="–",
        range="name and version; `pytorch` for a training loop of one's own",
        default="empty: a run of Esper's own agent",
        meaning="The library whose training is watched. A watched run has no hosts and no "
        "decisions, so their screens are not offered.",
        wiring=Wiring(
            source="esper.recording.run_recorder:library_version",
            emission=_RECORDER,
            payload="RunStarted.library",
            aggregation=f"{AGGREGATOR}._handle_run_started",
            snapshot="run.library",
            widget="esper.karn.sanctum.frame.run_header:RunHeader",
            label="library",
        ),
    ),
    TelemetryRecord(
        id="TELE-602",
        name="Kinds Of Heads",
        category="run",
        priority="P2",
        question="What is each head of a watched run?",
        audience=("operator", "developer"),
        when="when the run starts",
        type="dict[str, str]",
        keys="one per head and per group of parameters",
        unit="–",
        range="categorical, binary, gaussian, module, reward or group",
        default="empty: every head is a categorical choice",
        meaning=(
            "A categorical or binary choice, a dimension of a Gaussian action, the output of a "
            "module, a reward function, or a group of parameters, which has no output."
        ),
        wiring=Wiring(
            source="esper.watching.model.heads:heads_of",
            emission=_RECORDER,
            payload="RunStarted.head_kinds",
            aggregation=f"{AGGREGATOR}._handle_run_started",
            snapshot="run.head_kinds",
            widget="esper.karn.sanctum.heads.evidence_panel:EvidencePanel",
            label="neither Inf nor NaN",
        ),
    ),
    TelemetryRecord(
        id="TELE-603",
        name="Logged Figures",
        category="policy",
        priority="P1",
        question="What does the training loop itself report?",
        audience=("operator", "developer", "researcher"),
        when="after every update",
        type="dict[str, float]",
        keys="names that the training loop or its library gave",
        unit="that of the figure",
        range="any, non-finite values included",
        default="empty",
        meaning=(
            "Losses, returns and other figures, as the training loop or its library logged them "
            "in the last update. A figure that it did not log is absent, and keeps its history."
        ),
        causes=("a figure that is not finite says in which quantity to look first",),
        thresholds=Thresholds(healthy="finite"),
        wiring=_of_update("logged", "logged", "", f"{_OVERVIEW}.logged_panel:LoggedPanel"),
    ),
    TelemetryRecord(
        id="TELE-604",
        name="Still Updates",
        category="gradient",
        priority="P1",
        question="For how many updates has training been stalled?",
        audience=_EVERYONE,
        when="after every update; 0 again after one in which something was learnt",
        type="int",
        unit="updates",
        range="0 upwards",
        default="0",
        meaning=(
            "Updates in a row, up to the last, in which the optimizer took steps, and no weight "
            "changed or every gradient was 0. From 3 on, training is stalled."
        ),
        causes=_STILL_CAUSES,
        thresholds=Thresholds(healthy="0"),
        wiring=_of_update(
            "still_updates", "still_updates", "nothing was learnt for", _LIGHTS_PANEL
        ),
        companions=("TELE-605", "TELE-606"),
    ),
    TelemetryRecord(
        id="TELE-605",
        name="Stalled Latch",
        category="gradient",
        priority="P0",
        question="Has this training ever taken steps without moving a weight?",
        audience=_EVERYONE,
        when="after every update",
        type="bool",
        unit="–",
        range="True or False",
        default="False",
        meaning=(
            "An indicator light that, once lit, stays lit for the whole run: in 3 or more updates "
            "in a row the optimizer took steps, and no weight moved or every gradient was 0, as "
            "where a library replaces a NaN by 0. Training then looks alive and learns nothing, "
            "often because a NaN or an Inf was hidden instead of reported. The verdict is CRITICAL "
            "while training stands still, and WARNING once it moves again."
        ),
        causes=_STILL_CAUSES,
        thresholds=Thresholds(healthy="dark", is_critical_when_true=True),
        wiring=_of_update("still_updates", "stalled_latch", "stalled", _LIGHTS_PANEL),
        companions=("TELE-302", "TELE-303", "TELE-604", "TELE-606"),
        proven_by=("tests/karn/sanctum/screens/test_watched_runs.py",),
    ),
    TelemetryRecord(
        id="TELE-606",
        name="Stalled Since",
        category="gradient",
        priority="P1",
        question="When did weights first stand still?",
        audience=("operator", "developer"),
        when="when TELE-605 is lit",
        type="int | None",
        unit="update, counted from 1",
        range="1 upwards",
        default="None",
        meaning="Update in which training first stalled.",
        causes=_STILL_CAUSES,
        wiring=_of_update("still_updates", "stalled_since", "stalled", _LIGHTS_PANEL),
        companions=("TELE-604", "TELE-605"),
    ),
    TelemetryRecord(
        id="TELE-607",
        name="Origin Of An Incident",
        category="intervention",
        priority="P0",
        question="In which operation and source line did it begin?",
        audience=("operator", "developer", "automation"),
        when="at once, when something is not finite",
        type="IncidentOrigin | None",
        unit="–",
        range="operation, phase, cause, module, file, line, code",
        default="None: the panel says why it is not known",
        meaning=(
            "The first operation that turned finite inputs into a non-finite result, found by "
            "repeating the minibatch in place while its weights had not changed. Its cause is a "
            "sentence that names the operand."
        ),
        causes=("see TELE-302 and TELE-303",),
        thresholds=Thresholds(healthy="no incident"),
        wiring=Wiring(
            source="esper.watching.finding.explaining:origin_in",
            emission=f"{_RECORDER}.found",
            payload="IncidentRecorded.origin",
            aggregation=f"{AGGREGATOR}._handle_incident_recorded",
            snapshot="incidents[…].origin",
            widget="esper.karn.sanctum.heads.incident_panel:IncidentPanel",
            label="began in",
        ),
        companions=("TELE-136",),
    ),
)

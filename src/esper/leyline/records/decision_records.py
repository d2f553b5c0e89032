"""Records of what the policy decides for each host (TELE-5xx)."""

from typing import Final

from esper.leyline.records.record import AGGREGATOR, TelemetryRecord, Wiring
from esper.leyline.thresholds import Thresholds

_PANELS: Final = "esper.karn.sanctum.decisions.decision_panels"


def _decision(
    number: int,
    name: str,
    question: str,
    meaning: str,
    *,
    payload: str,
    snapshot: str,
    widget: str,
    label: str,
    type_: str,
    range_: str,
    unit: str = "–",
    thresholds: Thresholds | None = None,
    causes: tuple[str, ...] = (),
    companions: tuple[str, ...] = (),
) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=name,
        category="decision",
        priority="P1",
        question=question,
        audience=("developer", "researcher"),
        when="before every step",
        type=type_,
        unit=unit,
        range=range_,
        default="no decision is shown",
        meaning=meaning,
        causes=causes,
        thresholds=thresholds or Thresholds(),
        wiring=Wiring(
            source="esper.tamiyo.acting:act",
            emission="esper.simic.telemetry.emitters:emit_decisions",
            payload=f"DecisionsTaken.{payload}",
            aggregation=f"{AGGREGATOR}._handle_decisions_taken",
            snapshot=f"decisions[…].{snapshot}" if snapshot else "decisions",
            widget=f"{_PANELS}:{widget}",
            label=label,
        ),
        companions=companions,
        proven_by=("tests/karn/sanctum/fold/test_hosts_and_decisions.py",),
    )


DECISION_RECORDS: Final = (
    _decision(
        501,
        "Choice",
        "What did each head choose for this host?",
        "Index into the head's choices, shown by its name and marked among them.",
        payload="actions",
        snapshot="heads[…].choice",
        widget="DecisionPanel",
        label="Blueprint",
        type_="int",
        range_="0 upwards",
        companions=("TELE-502", "TELE-503"),
    ),
    _decision(
        502,
        "Probability Of The Choice",
        "How confident was the policy in its choice?",
        "Probability of the choice taken, under the mask that applied; shown as the product over "
        "the heads whose choice mattered.",
        payload="probabilities",
        snapshot="heads[…].probability",
        widget="DecisionListPanel",
        label=" p ",
        type_="float",
        range_="0 to 1; NaN where the head is broken",
        unit="probability, shown in percent",
        causes=("see TELE-302 and TELE-303",),
        companions=("TELE-501", "TELE-504"),
    ),
    _decision(
        503,
        "Active Head",
        "Did this head's choice matter?",
        "Whether the chosen op uses the head. The choice of an unused head has no effect and is "
        "dim.",
        payload="actions",
        snapshot="heads[…].is_active",
        widget="DecisionPanel",
        label="Slot",
        type_="bool",
        range_="True or False",
        companions=("TELE-317",),
    ),
    _decision(
        504,
        "Probabilities Of All Choices",
        "How probable were the other choices?",
        "Probability of each choice of each head, under the mask that applied; 0 for an "
        "illegal choice. Older versions did not record it.",
        payload="distributions",
        snapshot="heads[…].probabilities",
        widget="DecisionPanel",
        label="Op",
        type_="tuple[float, ...]",
        range_="0 to 1 each; NaN where the head is broken",
        unit="probability, shown in percent",
        causes=("see TELE-302 and TELE-303",),
        companions=("TELE-310", "TELE-502"),
    ),
    _decision(
        505,
        "Critic's Value",
        "What return does the critic expect from this host?",
        "The critic's estimate of the discounted future reward.",
        payload="values",
        snapshot="value",
        widget="DecisionListPanel",
        label="value",
        type_="float",
        range_="any",
        unit="reward",
        companions=("TELE-202", "TELE-206"),
    ),
    _decision(
        506,
        "Decisions Of A Step",
        "What did the policy do to each host in this step?",
        "One decision for each host: the choices of the active heads, in a line. The newest step, "
        "or an earlier one of the same update.",
        payload="step",
        snapshot="",
        widget="DecisionListPanel",
        label="host",
        type_="tuple[DecisionState, ...]",
        range_="one for each host",
        unit="decisions",
        thresholds=Thresholds(healthy="every probability and value finite"),
        companions=("TELE-501", "TELE-502", "TELE-505"),
    ),
)

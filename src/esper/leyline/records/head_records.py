"""Telemetry records of the action heads: their lights and their figures (TELE-3xx)."""

from typing import Final

from esper.leyline.head_figures import HEAD_FIGURES, HeadFigure
from esper.leyline.records.record import AGGREGATOR, EMIT_UPDATE, TelemetryRecord, Wiring
from esper.leyline.thresholds import Thresholds

_KEYS: Final = "one per action head of the run; of Tamiyo those in HEAD_NAMES"
_ALL_HEADS: Final = "{head: False for head in HEAD_NAMES}"
_ALL_GROUPS: Final = "{group: False for group in GROUPS}"
_EXAMINED: Final = "esper.simic.agent.detection.second_pass:examine"
_FIGURES: Final = "esper.simic.agent.figures:summarise"
_LIT: Final = Thresholds(healthy="dark", is_critical_when_true=True)
_EVERYONE: Final = ("operator", "developer", "researcher", "automation")


def _wiring(source: str, field: str, snapshot: str, label: str) -> Wiring:
    return Wiring(
        source=source,
        emission=EMIT_UPDATE,
        payload=f"PPOUpdatePayload.{field}",
        aggregation=f"{AGGREGATOR}._handle_ppo_update",
        snapshot=f"tamiyo.{snapshot}",
        widget="esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel:ActionHeadsPanel",
        label=label,
    )


def _latch(
    number: int,
    name: str,
    *,
    question: str,
    meaning: str,
    causes: tuple[str, ...],
    wiring: Wiring,
    companions: tuple[str, ...],
    proven_by: tuple[str, ...],
    keys: str = _KEYS,
    default: str = _ALL_HEADS,
) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=name,
        category="gradient",
        priority="P0",
        question=question,
        audience=_EVERYONE,
        when="after every PPO update",
        type="dict[str, bool]",
        keys=keys,
        unit="–",
        range="True or False",
        default=default,
        meaning=meaning,
        causes=causes,
        thresholds=_LIT,
        wiring=wiring,
        companions=companions,
        proven_by=proven_by,
    )


HEAD_NAN_LATCH: Final = _latch(
    302,
    "Head NaN Latch",
    question="Which action heads have produced a NaN at any time in this run?",
    meaning=(
        "An indicator light for each head that, once lit, stays lit for the whole run, through "
        "restarts and resumes. It is set by OR: an update without NaN changes nothing. It covers "
        "NaN only; a head whose NaN was caused by an Inf has its TELE-303 light on as well."
    ),
    causes=(
        "infinity minus infinity: a softmax over an infinite logit",
        "zero times infinity: an entropy or a loss that multiplies by a masked log-probability",
        "an observation or a recurrent state that was NaN before it reached the policy",
    ),
    wiring=_wiring(
        "esper.simic.agent.ppo:PPOAgent._update", "head_nan_detected", "head_nan_latch", "NaN"
    ),
    companions=("TELE-301", "TELE-303", "TELE-306"),
    proven_by=(
        "tests/karn/sanctum/test_aggregator.py::test_aggregator_latches_both_nan_and_inf_same_head",
        "tests/karn/sanctum/test_schema.py::test_tamiyo_state_has_nan_inf_latch_fields",
        "tests/leyline/test_telemetry.py::test_ppo_update_payload_with_per_head_fields",
    ),
)

HEAD_INF_LATCH: Final = _latch(
    303,
    "Head Inf Latch",
    question="Which action heads have produced an Inf at any time in this run?",
    meaning=(
        "An indicator light for each head that, once lit, stays lit for the whole run, through "
        "restarts and resumes, so that a failure that has passed can still be seen. It is set by "
        "OR: an absent or False entry of an update changes nothing. Infinities of both signs "
        "count; the -Inf by which a mask forbids a choice does not."
    ),
    causes=(
        "a log-probability that diverged: confident predictions that turned out wrong",
        "an exploding PPO ratio: the probability of a choice moved too far in one update",
        "overflow under mixed precision, where a number too large for fp16 becomes Inf",
    ),
    wiring=_wiring(
        "esper.simic.agent.ppo:PPOAgent._update", "head_inf_detected", "head_inf_latch", "Inf"
    ),
    companions=("TELE-301", "TELE-302", "TELE-307"),
    proven_by=(
        "tests/simic/agent/test_ppo_nan_detection.py::test_head_inf_detection_logic",
        "tests/leyline/test_telemetry.py::test_ppo_update_payload_with_per_head_fields",
        "tests/karn/sanctum/test_aggregator.py::test_aggregator_latches_both_nan_and_inf_same_head",
        "tests/karn/sanctum/test_schema.py::test_tamiyo_state_has_nan_inf_latch_fields",
        "tests/karn/sanctum/widgets/tamiyo_brain/test_action_heads_panel.py",
        "tests/integration/test_head_inf_latch_end_to_end.py",
    ),
)


_GROUPS: Final = "one per group: shared, hosts"
_GROUP_CAUSES: Final = (
    "observations, returns or a recurrent state that were non-finite already",
    "a loss that overflowed, which spreads to every parameter by its gradient",
    "parameters or moments that were broken before the update began",
    "a host network whose training diverged",
)


def _group_latch(number: int, kind: str, head_latch: str, companion: str) -> TelemetryRecord:
    return _latch(
        number,
        f"Group {kind} Latch",
        question=f"Has anything other than the heads been {kind} at any time in this run?",
        keys=_GROUPS,
        default=_ALL_GROUPS,
        meaning=(
            f"Like {head_latch}, for the groups. `shared` is what all heads depend on: "
            "observations, trunk, value, advantages, returns, losses, shared gradients, parameters "
            "and moments; a shared failure is reported here, not as eight failed heads. `hosts` is "
            "the training of the host networks; the episode of a failed host is not learned from."
        ),
        causes=_GROUP_CAUSES,
        wiring=_wiring(_EXAMINED, "head_nonfinite", f"group_{kind.lower()}_latch", "Shared"),
        companions=(head_latch, companion),
        proven_by=("tests/karn/sanctum/test_aggregator.py::test_each_group_has_lights_of_its_own",),
    )


def _active(
    number: int,
    name: str,
    question: str,
    *,
    detected: str,
    active: str,
    latch: str,
    keys: str = _KEYS,
    default: str = _ALL_HEADS,
) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=name,
        category="gradient",
        priority="P1",
        question=question,
        audience=("operator", "developer"),
        when="after every PPO update; off again after the next one in which nothing was seen",
        type="dict[str, bool]",
        keys=keys,
        unit="–",
        range="True or False",
        default=default,
        meaning="Marks a lit light whose cause is still present. Not a latch.",
        thresholds=Thresholds(healthy="dark"),
        wiring=_wiring(_EXAMINED, detected, active, "now"),
        companions=(latch,),
    )


def _head_active(number: int, kind: str, latch: str) -> TelemetryRecord:
    return _active(
        number,
        f"Head {kind} Active",
        f"Which action heads produced {kind} in the last update?",
        detected=f"head_{kind.lower()}_detected",
        active=f"head_{kind.lower()}_active",
        latch=latch,
    )


def _group_active(number: int, kind: str, latch: str) -> TelemetryRecord:
    return _active(
        number,
        f"Group {kind} Active",
        f"Was anything other than the heads {kind} in the last update?",
        detected="head_nonfinite",
        active=f"group_{kind.lower()}_active",
        latch=latch,
        keys=_GROUPS,
        default=_ALL_GROUPS,
    )


def _figure_record(figure: HeadFigure) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{figure.number}",
        name=figure.name,
        category="policy",
        priority=figure.priority,
        question=figure.question,
        audience=("developer", "researcher"),
        when="after every PPO update",
        type="dict[str, float]",
        keys=f"{_KEYS}; a head that was never active in the update may be absent",
        unit=figure.unit,
        range=figure.range,
        default="{}",
        meaning=figure.meaning,
        causes=figure.causes,
        thresholds=figure.thresholds,
        wiring=_wiring(_FIGURES, figure.field, f"figures.{figure.field}", figure.label),
    )


HEAD_RECORDS: Final = (
    TelemetryRecord(
        id="TELE-301",
        name="First-Out",
        category="gradient",
        priority="P0",
        question="What went non-finite first, in which tensor and at which update?",
        audience=_EVERYONE,
        when="after every PPO update",
        type="tuple[FirstSighting, ...]",
        unit="–",
        range="at most one sighting for each head or group and kind",
        default="()",
        meaning=(
            "The first sighting of each kind of non-finite value, in order of time: by update, "
            "phase (given, hosts, acting, preparation, update), epoch and minibatch or step of the "
            "episode, and within one of these in the order of computation. When NaN spreads, the "
            "first sighting is the diagnosis. Each has its tensor, host and step, where it has "
            "one, and whether it was ever reproduced."
        ),
        causes=("see TELE-302 and TELE-303",),
        thresholds=Thresholds(healthy="empty"),
        wiring=_wiring(_EXAMINED, "head_nonfinite", "first", "first:"),
        companions=("TELE-302", "TELE-303", "TELE-304", "TELE-305", "TELE-318"),
    ),
    HEAD_NAN_LATCH,
    HEAD_INF_LATCH,
    _group_latch(304, "NaN", "TELE-302", "TELE-305"),
    _group_latch(305, "Inf", "TELE-303", "TELE-304"),
    _head_active(306, "NaN", "TELE-302"),
    _head_active(307, "Inf", "TELE-303"),
    _group_active(308, "NaN", "TELE-304"),
    _group_active(309, "Inf", "TELE-305"),
    *map(_figure_record, HEAD_FIGURES),
    TelemetryRecord(
        id="TELE-318",
        name="Evidence",
        category="gradient",
        priority="P0",
        question="Where, when and how often was each kind of non-finite value seen in this run?",
        audience=_EVERYONE,
        when="after every PPO update",
        type="tuple[Evidence, ...]",
        unit="–",
        range="at most one row for each head or group, quantity and kind",
        default="()",
        meaning=(
            "For each quantity that was ever non-finite: its first and last sighting with phase, "
            "host, step and tensor, the number of minibatches, steps and updates in which it was "
            "seen, and whether it was seen in the last update. Not reproduced means that it was "
            "not seen again when the computation was repeated; acting and given state are never "
            "repeated. Rows are joined like the latches: they do not depend on the order of events "
            "or on repetition, and an update that a resume trained again counts once. The first "
            "row is the first-out."
        ),
        causes=("see TELE-302 and TELE-303",),
        thresholds=Thresholds(healthy="empty"),
        wiring=_wiring(_EXAMINED, "head_nonfinite", "evidence", "Evidence"),
        companions=("TELE-301", "TELE-302", "TELE-303", "TELE-304", "TELE-305"),
        proven_by=("tests/karn/sanctum/fold/test_evidence.py",),
    ),
)

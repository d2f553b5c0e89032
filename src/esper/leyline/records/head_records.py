"""Records of the action heads: their lights and their figures (TELE-3xx)."""

from typing import Final

from esper.leyline.records.record import TelemetryRecord, Thresholds, Wiring

_KEYS: Final = "one per action head of the run; of Tamiyo those in HEAD_NAMES"
_EXAMINED: Final = "esper.simic.agent.detection.second_pass:examine"
_FIGURES: Final = "esper.simic.agent.figures:summarise"
_LIT: Final = Thresholds(healthy="dark", is_critical_when_true=True)
_EVERYONE: Final = ("operator", "developer", "researcher", "automation")


def _wiring(source: str, field: str, snapshot: str, label: str) -> Wiring:
    return Wiring(
        source=source,
        emission="esper.simic.telemetry.emitters:emit_ppo_update_event",
        payload=f"PPOUpdatePayload.{field}",
        aggregation="esper.karn.sanctum.aggregator:SanctumAggregator._handle_ppo_update",
        snapshot=f"tamiyo.{snapshot}",
        widget="esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel:ActionHeadsPanel",
        label=label,
    )


HEAD_NAN_LATCH: Final = TelemetryRecord(
    id="TELE-302",
    name="Head NaN Latch",
    category="gradient",
    priority="P0",
    question="Which action heads have produced a NaN at any time in this run?",
    audience=_EVERYONE,
    when="after every PPO update",
    type="dict[str, bool]",
    keys=_KEYS,
    unit="–",
    range="True or False",
    default="{head: False for head in HEAD_NAMES}",
    meaning=(
        "An indicator light for each head that, once lit, stays lit for the whole run, through "
        "restarts and resumes. It is set by OR: an update that saw nothing changes nothing. It is "
        "about NaN alone; a head whose NaN was born of an Inf has its TELE-303 light on as well."
    ),
    causes=(
        "infinity minus infinity: a softmax over an infinite logit",
        "zero times infinity: an entropy or a loss that multiplies by a masked log-probability",
        "an observation or a recurrent state that was NaN before it came to the policy",
    ),
    thresholds=_LIT,
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

HEAD_INF_LATCH: Final = TelemetryRecord(
    id="TELE-303",
    name="Head Inf Latch",
    category="gradient",
    priority="P0",
    question="Which action heads have produced an Inf at any time in this run?",
    audience=_EVERYONE,
    when="after every PPO update",
    type="dict[str, bool]",
    keys=_KEYS,
    unit="–",
    range="True or False",
    default="{head: False for head in HEAD_NAMES}",
    meaning=(
        "An indicator light for each head that, once lit, stays lit for the whole run, through "
        "restarts and resumes, so that trouble which has passed can still be seen. It is set by "
        "OR: an absent or False entry of an update changes nothing. Infinities of both signs "
        "count; the -Inf by which a mask forbids a choice does not."
    ),
    causes=(
        "a log-probability that ran away: confident predictions that turned out wrong",
        "an exploding PPO ratio: the probability of a choice moved too far in one update",
        "overflow under mixed precision, where a number too large for fp16 becomes Inf",
    ),
    thresholds=_LIT,
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


_GROUPS: Final = "one per group beside the heads: shared, hosts"
_GROUP_CAUSES: Final = (
    "observations, returns or a recurrent state that were non-finite already",
    "a loss that overflowed, which spreads to every parameter by its gradient",
    "parameters or moments that were broken before the update began",
    "a host network whose training diverged",
)


def _group_latch(number: int, kind: str, head_latch: str, companion: str) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=f"Group {kind} Latch",
        category="gradient",
        priority="P0",
        question=f"Has anything beside the heads been {kind} at any time in this run?",
        audience=_EVERYONE,
        when="after every PPO update",
        type="dict[str, bool]",
        keys=_GROUPS,
        unit="–",
        range="True or False",
        default="{group: False for group in GROUPS}",
        meaning=(
            f"Like {head_latch}, for the groups beside the heads. `shared` is what all heads "
            "share: observations, trunk, value, advantages, returns, losses, shared gradients, "
            "parameters and moments; a shared failure is reported here and not as eight broken "
            "heads. `hosts` is the training of the host networks; the episode of a broken host is "
            "not learnt from."
        ),
        causes=_GROUP_CAUSES,
        thresholds=_LIT,
        wiring=_wiring(_EXAMINED, "head_nonfinite", f"group_{kind.lower()}_latch", "Shared"),
        companions=(head_latch, companion),
        proven_by=("tests/karn/sanctum/test_aggregator.py::test_each_group_has_lights_of_its_own",),
    )


def _group_active(number: int, kind: str, latch: str) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=f"Group {kind} Active",
        category="gradient",
        priority="P1",
        question=f"Was anything beside the heads {kind} in the very last update?",
        audience=("operator", "developer"),
        when="after every PPO update; out again after the next one that saw nothing",
        type="dict[str, bool]",
        keys=_GROUPS,
        unit="–",
        range="True or False",
        default="{group: False for group in GROUPS}",
        meaning="Marks a lit light whose trouble has not passed. Not a latch.",
        thresholds=Thresholds(healthy="dark"),
        wiring=_wiring(_EXAMINED, "head_nonfinite", f"group_{kind.lower()}_active", "now"),
        companions=(latch,),
    )


def _active(number: int, kind: str, latch: str) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=f"Head {kind} Active",
        category="gradient",
        priority="P1",
        question=f"Which action heads produced {kind} in the very last update?",
        audience=("operator", "developer"),
        when="after every PPO update; out again after the next one that saw nothing",
        type="dict[str, bool]",
        keys=_KEYS,
        unit="–",
        range="True or False",
        default="{head: False for head in HEAD_NAMES}",
        meaning="Marks a lit light whose trouble has not passed. Not a latch.",
        thresholds=Thresholds(healthy="dark"),
        wiring=_wiring(
            _EXAMINED, f"head_{kind.lower()}_detected", f"head_{kind.lower()}_active", "now"
        ),
        companions=(latch,),
    )


def _figure(
    number: int,
    name: str,
    field: str,
    label: str,
    question: str,
    meaning: str,
    *,
    range_: str,
    unit: str = "–",
    thresholds: Thresholds | None = None,
    causes: tuple[str, ...] = (),
    priority: str = "P1",
) -> TelemetryRecord:
    return TelemetryRecord(
        id=f"TELE-{number}",
        name=name,
        category="policy",
        priority=priority,
        question=question,
        audience=("developer", "researcher"),
        when="after every PPO update",
        type="dict[str, float]",
        keys=f"{_KEYS}; a head that was never active in the update may be absent",
        unit=unit,
        range=range_,
        default="{}",
        meaning=meaning,
        causes=causes,
        thresholds=thresholds or Thresholds(),
        wiring=_wiring(_FIGURES, field, field, label),
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
            "The first sighting of each kind of non-finite value, in the order in which they "
            "happened: by update, phase (given, hosts, acting, preparation, update), epoch and "
            "minibatch, or step of the episode, and within one of these what is computed earlier "
            "stands first. When NaN spreads, the first is the diagnosis. Each has its tensor, host "
            "and step, where it has one, and whether it was ever reproduced."
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
    _active(306, "NaN", "TELE-302"),
    _active(307, "Inf", "TELE-303"),
    _group_active(308, "NaN", "TELE-304"),
    _group_active(309, "Inf", "TELE-305"),
    _figure(
        310,
        "Head Entropy",
        "head_entropy",
        "Entropy",
        "Is each head still exploring?",
        "Mean entropy over the steps in which the head was active, divided by its maximum: the "
        "logarithm of the number of legal choices.",
        range_="0 (always the same choice) to 1 (all legal choices alike)",
        unit="share of the maximum",
        thresholds=Thresholds(healthy="0.02 to 1", warn_below=0.02),
        causes=("the policy collapsed to one choice: raise the entropy bonus", "one legal choice"),
    ),
    _figure(
        311,
        "Head Gradient Norm",
        "head_gradient_norm",
        "Grad norm",
        "How hard does the loss pull at each head's own parameters?",
        "L2 norm of the gradient of the head's rows of the joint projection, before clipping; mean "
        "over minibatches.",
        range_="0 upwards",
        thresholds=Thresholds(healthy="below 50", warn_above=50.0),
        causes=("advantages that are not normalised", "a ratio that exploded"),
    ),
    _figure(
        312,
        "Head Ratio Max",
        "head_ratio_max",
        "Ratio max",
        "How far did the probability of any choice taken move in this update?",
        "Largest ratio of new to old probability of the choice that was taken, over the steps in "
        "which the head was active, of minibatches that were learnt from. Exactly 1 on the first "
        "minibatch.",
        range_="0 upwards",
        thresholds=Thresholds(healthy="1 to 10", warn_above=10.0),
        causes=("learning rate too high", "too many epochs on the same data"),
    ),
    _figure(
        313,
        "Head Clip Fraction",
        "head_clip_fraction",
        "Clip",
        "How much of each head's data is beyond the clip range?",
        "Share of the steps in which the head was active whose own ratio is further from 1 than "
        "the clip range.",
        range_="0 to 1",
        thresholds=Thresholds(healthy="below 0.5", warn_above=0.5),
        causes=("learning rate too high", "too many epochs on the same data"),
    ),
    _figure(
        314,
        "Head KL",
        "head_kl",
        "KL",
        "Which head moved, when the policy moved?",
        "Estimate r - 1 - log r of the divergence between the head's old and new distribution "
        "(Schulman, 2020), mean over the steps in which it was active.",
        range_="0 upwards",
        unit="nat",
        thresholds=Thresholds(healthy="below 0.1", warn_above=0.1),
        causes=("learning rate too high",),
    ),
    _figure(
        315,
        "Head Log-Prob Min",
        "head_log_prob_min",
        "Log p min",
        "How improbable was the least probable choice that was taken?",
        "Smallest log-probability of a choice taken, in minibatches that were learnt from. It "
        "heads for -Inf before the head does.",
        range_="-Inf to 0",
        unit="nat",
        thresholds=Thresholds(healthy="above -20", warn_below=-20.0),
        causes=("logits that grow without bound",),
        priority="P2",
    ),
    _figure(
        316,
        "Head Log-Prob Max",
        "head_log_prob_max",
        "Log p max",
        "How sure was the head when it was surest?",
        "Largest log-probability of a choice taken, in minibatches that were learnt from; 0 is "
        "certainty.",
        range_="-Inf to 0",
        unit="nat",
        priority="P2",
    ),
    _figure(
        317,
        "Head Active Fraction",
        "head_active_fraction",
        "Active",
        "How often did the head's choice matter?",
        "Share of the steps whose op uses this head. The figures of a head that is seldom active "
        "rest on little data.",
        range_="0 to 1",
        priority="P2",
    ),
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
            "host, step and tensor, in how many minibatches or steps of how many updates it was "
            "seen, and whether it was in the last one. Not reproduced means that it was never seen "
            "again when the same was computed again, which is never done of acting and of given "
            "state. Joined like the latches: rows do not depend "
            "on the order of events or on repetition, and an update that a resume trained again "
            "counts once. The first row is the first-out."
        ),
        causes=("see TELE-302 and TELE-303",),
        thresholds=Thresholds(healthy="empty"),
        wiring=_wiring(_EXAMINED, "head_nonfinite", "evidence", "Evidence"),
        companions=("TELE-301", "TELE-302", "TELE-303", "TELE-304", "TELE-305"),
        proven_by=("tests/karn/sanctum/test_evidence.py",),
    ),
)

"""The fold of hosts, decisions, incidents and lines of the log."""

import math
import struct

import pytest

from esper.karn.sanctum.fold.ledgers.incident_ledger import INCIDENTS_KEPT
from esper.karn.sanctum.schema import IncidentState, SlotState
from esper.leyline.heads import ACTIVE_HEADS, HEAD_CHOICES, HEAD_NAMES, HEAD_SIZES, Op, Stage
from esper.leyline.telemetry import (
    CheckpointWritten,
    DamagedPayload,
    DecisionsTaken,
    IncidentRecorded,
    Notice,
    UnknownPayload,
)

ALL_CHOICES = sum(HEAD_SIZES)


def decision(hosts=2, op=Op.GERMINATE, **changes):
    """Return a decision in which each host took the first choice of every head but `op`."""
    spread = [0.125 * number for number in range(ALL_CHOICES)]
    values = {
        "update": 1,
        "step": 1,
        "actions": [[0] * (len(HEAD_NAMES) - 1) + [int(op)]] * hosts,
        "probabilities": [[0.5] * len(HEAD_NAMES)] * hosts,
        "values": [0.25 + host for host in range(hosts)],
        "distributions": [struct.pack(f"<{ALL_CHOICES}f", *spread)] * hosts,
    }
    return DecisionsTaken(**(values | changes))


def test_a_host_has_the_history_of_its_episode(payloads, fold):
    steps = [
        payloads.step(
            step,
            loss=[3.0 - step, 2.0],
            reward=[0.1 * step, math.nan],
            parameters=[800 + step, 858],
            alphas=[[0.0, 0.25 * step, 0.0], [0.0, 0.0, 0.0]],
            stages=[[0, 2 + step, 0], [0, 0, 0]],
            reward_terms={"potential": [0.5, 0.25], "rent": [-0.1 * step, 0.0]},
        )
        for step in (1, 2)
    ]
    first, second = fold(payloads.start(), payloads.step(9, first_episode=77), *steps).hosts

    assert first.loss_history == (2.0, 1.0)
    assert first.reward_history == (0.1, 0.2)
    assert first.parameters_history == (801, 802)
    assert [slots[1] for slots in first.slot_history] == [
        SlotState(3, 0.25, -1),
        SlotState(4, 0.5, -1),
    ]
    assert first.slots == first.slot_history[-1]
    assert first.reward_terms == {"potential": 0.5, "rent": -0.2}
    assert first.reward_terms_history == {"potential": (0.5, 0.5), "rent": (-0.1, -0.2)}
    assert second.reward_terms == {"potential": 0.25, "rent": 0.0}
    assert all(map(math.isnan, second.reward_history))
    assert len(first.accuracy_history) == 2


def test_a_reward_term_has_a_point_for_each_step_that_reported_it(payloads, fold):
    steps = [
        payloads.step(1, reward_terms={"rent": [0.5, math.inf]}),
        payloads.step(2, reward_terms={}),
        payloads.step(3, reward_terms={"rent": [0.25, 1.0], "score": [1.0, 2.0]}),
    ]
    first, second = fold(payloads.start(), *steps).hosts

    assert first.reward_terms_history == {"rent": (0.5, 0.25), "score": (1.0,)}
    assert second.reward_terms_history == {"rent": (math.inf, 1.0), "score": (2.0,)}


@pytest.mark.parametrize(
    "damage",
    [
        {"loss": [1.0]},
        {"stages": [[0, 0, 0]]},
        {"stages": [[0, 0, 0], [0, 0]]},
        {"alphas": [[0.0], [0.0]]},
        {"reward_terms": {"potential": [0.5], "rent": [0.0, 0.0]}},
    ],
)
def test_a_step_whose_lists_do_not_fit_is_counted_and_not_shown(payloads, fold, damage):
    snapshot = fold(payloads.start(), payloads.step(1), payloads.step(2, **damage))

    assert snapshot.run.damaged_events == 1
    assert snapshot.run.step == 1
    assert snapshot.log[-1].kind == "step_completed"


def test_a_decision_is_recorded_by_host_and_head(payloads, fold):
    first, second = fold(payloads.start(), decision()).decisions

    assert (first.host, second.host) == (0, 1)
    assert (first.update, first.step, first.value, second.value) == (1, 1, 0.25, 1.25)
    assert [head.head for head in first.heads] == list(HEAD_NAMES)
    offset = 0
    for head in first.heads:
        size = len(HEAD_CHOICES[head.head])
        expected = tuple(0.125 * number for number in range(offset, offset + size))
        assert head.probabilities == expected
        assert head.probability == 0.5
        offset += size


@pytest.mark.parametrize("op", list(Op))
def test_the_heads_that_mattered_follow_the_op(payloads, fold, op):
    decided = fold(payloads.start(), decision(op=op)).decisions[0]

    assert {head.head for head in decided.heads if head.is_active} == ACTIVE_HEADS[op]
    assert decided.heads[-1].choice == op


def test_another_agents_heads_all_mattered(payloads, fold):
    taken = decision(1, actions=[[1, 0]], probabilities=[[0.5, 0.25]], distributions=[])
    heads = {"move": ["left", "right"], "fire": ["no", "yes", "maybe"]}
    (decided,) = fold(payloads.start(heads=heads), taken).decisions

    assert [(head.head, head.choice, head.is_active) for head in decided.heads] == [
        ("move", 1, True),
        ("fire", 0, True),
    ]
    assert decided.heads[0].probabilities == ()  # an older writer did not record them


def test_nonfinite_probabilities_are_kept(payloads, fold):
    packed = struct.pack(f"<{ALL_CHOICES}f", *[math.nan, math.inf, -math.inf] * 12)[
        : 4 * ALL_CHOICES
    ]
    taken = decision(1, distributions=[packed], probabilities=[[math.nan] * len(HEAD_NAMES)])
    (decided,) = fold(payloads.start(), taken).decisions

    assert math.isnan(decided.heads[0].probability)
    assert list(map(str, decided.heads[0].probabilities)) == ["nan", "inf", "-inf"]


@pytest.mark.parametrize(
    "damage",
    [
        {"values": [0.5]},
        {"probabilities": []},
        {"actions": [[0], [0]]},
        {"probabilities": [[0.5], [0.5]]},
        {"distributions": [b"", b""]},
        {"distributions": [bytes(4 * ALL_CHOICES)]},
        {"distributions": [bytes(4 * ALL_CHOICES), bytes(4 * ALL_CHOICES - 1)]},
        {"actions": [[99] * len(HEAD_NAMES)] * 2},
        {"actions": [[-1] * len(HEAD_NAMES)] * 2},
    ],
)
def test_a_decision_that_does_not_fit_is_counted_and_not_shown(payloads, fold, damage):
    snapshot = fold(payloads.start(), decision(**damage))

    assert snapshot.decisions == ()
    assert snapshot.run.damaged_events == 1
    assert "decisions_taken" in snapshot.log[-1].text


def test_a_decision_is_never_shown_with_the_hosts_of_another_step(payloads, fold):
    before = (payloads.start(), decision(), payloads.step(1))

    assert fold(*before).decisions
    assert fold(*before, payloads.step(2)).decisions == ()
    assert fold(*before, payloads.start(resumed_from_update=0)).decisions == ()


def test_incidents_are_listed_and_those_with_a_capsule_stay_longest(payloads, fold):
    kept = IncidentRecorded(update=3, number=1, path="incidents/0001", size=9)
    lost = [
        IncidentRecorded(update=number, number=number, path="", size=0, reason="too many")
        for number in range(4, INCIDENTS_KEPT + 20)
    ]
    assert fold(payloads.start(), kept).incidents == (IncidentState(3, 1, "incidents/0001", ""),)
    incidents = fold(payloads.start(), kept, *lost).incidents

    assert len(incidents) == INCIDENTS_KEPT
    assert incidents[0].path == "incidents/0001"
    assert incidents[-1] == IncidentState(INCIDENTS_KEPT + 19, INCIDENTS_KEPT + 19, "", "too many")


def test_a_line_of_the_log_says_what_it_is_about(payloads, fold):
    snapshot = fold(
        payloads.start(),
        payloads.transition(Stage.GERMINATED, host=1),
        payloads.broken_update(1, "op", "+inf"),
        CheckpointWritten(update=1, path="checkpoints/1", size=1),
        Notice(level="info", text="so"),
        UnknownPayload(kind="weather", data=b""),
        DamagedPayload(kind="ppo_update", reason="broken"),
        payloads.finish(),
    )

    assert [(entry.kind, entry.host, entry.head) for entry in snapshot.log] == [
        ("run_started", None, None),
        ("seed_transitioned", 1, None),
        ("ppo_update", None, "op"),
        ("ppo_update", None, None),
        ("checkpoint_written", None, None),
        ("notice", None, None),
        ("weather", None, None),
        ("ppo_update", None, None),
        ("run_finished", None, None),
    ]


def test_seeds_do_not_push_faults_out_of_the_log(payloads, fold):
    seeds = [payloads.transition(Stage.GERMINATED) for _ in range(5_000)]
    log = fold(payloads.start(), payloads.broken_update(1, "op", "nan"), *seeds).log

    assert [entry.level for entry in log[:3]] == ["info", "latch", "warning"]
    assert [entry.event_id for entry in log] == sorted(entry.event_id for entry in log)


def test_parts_that_no_event_changed_are_the_same_objects(payloads):
    from esper.karn.sanctum.aggregator import SanctumAggregator

    aggregator = SanctumAggregator()
    events = payloads.events(
        payloads.start(), payloads.update(1), payloads.step(1), payloads.step(2)
    )
    for event in events[:-1]:
        aggregator.apply(event)
    before = aggregator.snapshot()
    aggregator.apply(events[-1])
    after = aggregator.snapshot()

    assert after.hosts != before.hosts
    for part in ("tamiyo", "training", "decisions", "log", "incidents"):
        assert getattr(after, part) is getattr(before, part)

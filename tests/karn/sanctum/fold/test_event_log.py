"""The event log: which events have a line, and the lines about the monitor itself."""

import math

import pytest

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.fold.log_book import with_details
from esper.leyline.heads import Stage
from esper.leyline.telemetry import (
    CheckpointWritten,
    DamagedPayload,
    DecisionsTaken,
    Event,
    Heartbeat,
    IncidentRecorded,
    InterventionTaken,
    Notice,
    UnknownPayload,
)


def log_texts(snapshot, level=None):
    return [entry.text for entry in snapshot.log if level in (None, entry.level)]


def test_a_light_is_logged_once_when_it_is_newly_lit(payloads, fold):
    snapshot = fold(
        payloads.start(),
        payloads.broken_update(2, "op", "+inf"),
        payloads.broken_update(3, "op", "+inf"),
        payloads.broken_update(4, "op", "nan", "log_prob"),
        payloads.update(5, head_nan_detected={"slot": True}),
    )

    assert log_texts(snapshot, "latch") == [
        "op went Inf first in logits, update 2, epoch 1, minibatch 1",
        "op went NaN first in log_prob, update 4, epoch 1, minibatch 1",
        "slot went NaN, update 5",
    ]


def test_the_log_has_sentences_about_important_events(payloads, fold):
    snapshot = fold(
        payloads.start(),
        payloads.transition(Stage.GERMINATED),
        payloads.transition(Stage.TRAINING),
        payloads.transition(Stage.BLENDING, cause="advance"),
        payloads.transition(Stage.BLENDING, from_stage=Stage.BLENDING, cause="retarget"),
        payloads.transition(Stage.FOSSILIZED),
        payloads.transition(Stage.PRUNED, slot=9, blueprint=99),
        payloads.transition(77),
        payloads.episodes(1),
        payloads.update(1, minibatches_skipped=3),
        CheckpointWritten(update=1, path="checkpoints/update-1.pt", size=10),
        Notice(level="error", text="no space left"),
    )

    assert [(entry.level, entry.text) for entry in snapshot.log] == [
        ("info", "run test started: 10 episodes of mnist1d on 2 hosts, seed 7, cpu"),
        ("info", "episode 2, host 2: conv germinated in middle"),
        ("info", "episode 2, host 2: conv blending in middle"),
        ("info", "episode 2, host 2: conv set to another alpha in middle"),
        ("info", "episode 2, host 2: conv fossilized in middle"),
        ("info", "episode 2, host 2: #99 pruned in #9"),
        ("info", "episodes 1–2 of 10 done: score 0.500, 3 seeds fossilized"),
        ("warning", "update 1: 3 of 8 minibatches skipped as non-finite"),
        ("info", "checkpoint of update 1 written: checkpoints/update-1.pt"),
        ("error", "no space left"),
    ]
    assert snapshot.log[0].time == 1_001.0
    assert snapshot.run.checkpoint == "checkpoints/update-1.pt"


@pytest.mark.parametrize(
    ("scores", "mean", "line"),
    [
        ([math.nan, 0.25, 0.75], 0.5, "score 0.500 (1 of 3 hosts not finite)"),
        ([math.inf, -math.inf, 0.5], 0.5, "score 0.500 (2 of 3 hosts not finite)"),
        ([math.nan, math.inf], math.nan, "score NaN (2 of 2 hosts not finite)"),
        ([0.25, 0.75], 0.5, "score 0.500,"),
        ([1.5e308, 1.5e308], 1.5e308, "score 15"),
    ],
)
def test_the_score_is_the_mean_of_the_hosts_that_are_finite(payloads, fold, scores, mean, line):
    snapshot = fold(payloads.episodes(1, score=scores))

    assert snapshot.training.score == pytest.approx(mean, nan_ok=True)
    assert snapshot.training.score_history == pytest.approx((mean,), nan_ok=True)
    assert line in log_texts(snapshot)[-1]
    assert fold(payloads.episodes(1, score=[])).training.score is None


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (
            {"kind": "nan", "phase": "acting", "host": 3, "step": 7, "epoch": 0, "minibatch": 0},
            "op went NaN first in logits, while acting, host 4, step 7, update 12",
        ),
        (
            {
                "head": "shared",
                "quantity": "parameters",
                "phase": "given",
                "part": "lstm.bias_ih_l0",
                "epoch": 0,
                "minibatch": 0,
            },
            "the shared part went Inf first in parameters (lstm.bias_ih_l0), before the update,"
            " update 12",
        ),
        (
            {"quantity": "ratio", "minibatch": 2, "reproduced": False},
            "op went Inf first in ratio, update 12, epoch 1, minibatch 2, not reproduced",
        ),
    ],
)
def test_a_light_is_logged_with_its_phase_host_step_and_tensor(payloads, fold, seen, line):
    update = payloads.update(12, head_nonfinite=[payloads.sighting(**seen)])
    (entry,) = [one for one in fold(update).log if one.level == "latch"]

    assert entry.text == line
    assert entry.host == seen.get("host")


def test_an_update_that_was_finite_when_repeated_is_logged_as_such(fold):
    done = InterventionTaken(
        update=6, action="repeat", cause="shared trunk nan", reason="seen once only"
    )

    assert [(entry.level, entry.text) for entry in fold(done).log] == [
        (
            "warning",
            "update 6 repeated: finite, nothing skipped: shared trunk nan (seen once only)",
        )
    ]


def test_damage_is_counted_and_named(fold):
    snapshot = fold(DamagedPayload(kind="ppo_update", reason="cut off"))

    assert snapshot.run.damaged_events == 1
    assert log_texts(snapshot, "error") == ["event 1 (ppo_update) is damaged: cut off"]


def test_a_step_whose_lists_do_not_fit_each_other_is_damaged(payloads, fold):
    snapshot = fold(payloads.step(1), payloads.step(2, loss=[1.0]))

    assert snapshot.run.damaged_events == 1
    assert snapshot.run.step == 1


def test_kinds_of_a_newer_version_are_counted_and_named_once(fold):
    snapshot = fold(*(UnknownPayload(kind=kind, data=b"") for kind in ("a", "b", "a")))

    assert snapshot.run.unknown_events == 3
    assert len(log_texts(snapshot, "warning")) == 2


def test_decisions_are_taken_note_of(fold):
    decision = DecisionsTaken(update=1, step=1, actions=[], probabilities=[], values=[])

    assert fold(decision).last_event_id == 1


def test_a_heartbeat_reports_lost_events_for_any_id(payloads):
    aggregator = SanctumAggregator()
    for event in payloads.events(payloads.start(), payloads.update()):
        aggregator.apply(event)
    beat = Heartbeat(pid=9, process_start_time=5.0, events_lost=3, error="the disk is full")
    aggregator.apply(Event(id=0, time=2_000.0, payload=beat))
    snapshot = aggregator.snapshot()

    assert (snapshot.run.events_lost, snapshot.run.pid) == (3, 9)
    assert snapshot.last_event_id == 2
    assert log_texts(snapshot, "error") == ["events that could not be stored: 3 (the disk is full)"]


def bad_update(payloads, update, action, **changes):
    """Return what a run reports of an update that was not finite."""
    return [
        payloads.broken_update(update, "op", "+inf", **changes),
        IncidentRecorded(update=update, number=update, path=f"incidents/{update:04}", size=1),
        InterventionTaken(update=update, action=action, cause="op logits +inf", reason="asked"),
    ]


def shown_lines(snapshot):
    return [(entry.text.split(":")[0], details) for entry, details in with_details(snapshot.log)]


def test_a_bad_update_has_one_line_with_its_details_behind_it(payloads, fold):
    snapshot = fold(payloads.start(), *bad_update(payloads, 2, "skip"), payloads.update(3))

    assert len(snapshot.log) == 5
    assert shown_lines(snapshot)[1:] == [
        ("op went Inf first in logits, update 2, epoch 1, minibatch 1", 3)
    ]


def test_a_later_bad_update_has_its_own_line_and_a_rollback_is_always_logged(payloads, fold):
    snapshot = fold(
        payloads.start(), *bad_update(payloads, 2, "skip"), *bad_update(payloads, 3, "rollback")
    )

    assert shown_lines(snapshot)[2:] == [("update 3", 1), ("update 3 rolled back", 0)]


def test_details_whose_leading_line_is_not_there_stand_for_themselves(payloads, fold):
    snapshot = fold(payloads.start(), *bad_update(payloads, 2, "skip"))

    details = [entry for entry in snapshot.log if entry.lead]
    assert [number for _, number in with_details(details)] == [0, 0, 0]

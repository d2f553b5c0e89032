"""The fold: lights that never go out, and figures that follow the run."""

import pytest
from fold_checks import lit, log_texts

from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import (
    GROUPS,
    HOSTS,
    SHARED,
)

IN_HOST = {"phase": "hosts", "host": 1, "step": 3}


# Latches


def test_aggregator_latches_both_nan_and_inf_same_head(payloads, fold):
    both = payloads.update(1, head_inf_detected={"op": True}, head_nan_detected={"op": True})

    tamiyo = fold(payloads.start(), both).tamiyo

    assert tamiyo.head_inf_latch == {head: head == "op" for head in HEAD_NAMES}
    assert tamiyo.head_nan_latch == {head: head == "op" for head in HEAD_NAMES}


@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize(("kind", "light"), [("+inf", "inf"), ("-inf", "inf"), ("nan", "nan")])
def test_each_head_has_a_light_of_its_own_for_each_kind(payloads, fold, head, kind, light):
    tamiyo = fold(payloads.start(), payloads.broken_update(1, head, kind)).tamiyo

    assert lit(tamiyo.head_inf_latch) == ([head] if light == "inf" else [])
    assert lit(tamiyo.head_nan_latch) == ([head] if light == "nan" else [])


def test_a_light_stays_lit_when_its_cause_has_passed(payloads, fold):
    snapshot = fold(
        payloads.start(),
        payloads.broken_update(1, "op", "+inf"),
        payloads.update(2),
        payloads.update(3, head_inf_detected={}, head_nan_detected={}),
    )

    assert lit(snapshot.tamiyo.head_inf_latch) == ["op"]
    assert lit(snapshot.tamiyo.head_inf_active) == []


def test_active_is_what_the_last_update_saw(payloads, fold):
    tamiyo = fold(
        payloads.broken_update(1, "op", "+inf"), payloads.broken_update(2, "slot", "nan")
    ).tamiyo

    assert lit(tamiyo.head_inf_latch) == ["op"]
    assert lit(tamiyo.head_inf_active) == []
    assert lit(tamiyo.head_nan_active) == ["slot"]


def test_a_sighting_lights_its_head_even_if_detected_is_missing(payloads, fold):
    quiet = payloads.update(1, head_inf_detected={}, head_nonfinite=[payloads.sighting()])

    assert lit(fold(quiet).tamiyo.head_inf_latch) == ["op"]


@pytest.mark.parametrize(
    ("group", "where", "line"),
    [
        (SHARED, {}, "the shared part went NaN first in loss, update 1, epoch 1, minibatch 1"),
        (
            HOSTS,
            {"phase": "hosts", "host": 0, "step": 24, "epoch": 0, "minibatch": 0},
            "the hosts went NaN first in loss, while training host 1, step 24, update 1",
        ),
    ],
)
def test_each_group_has_lights_of_its_own(payloads, fold, group, where, line):
    seen = payloads.sighting(head=group, quantity="loss", kind="nan", **where)
    snapshot = fold(payloads.start(), payloads.update(1, head_nonfinite=[seen]))

    assert lit(snapshot.tamiyo.group_nan_latch) == [group]
    assert lit(snapshot.tamiyo.group_inf_latch) == []
    assert lit(snapshot.tamiyo.head_nan_latch) == []
    assert group not in snapshot.tamiyo.head_nan_latch
    assert group not in snapshot.run.heads
    assert log_texts(snapshot, "latch") == [line]


def test_a_run_from_before_groups_existed_shows_them_dark(payloads, fold):
    tamiyo = fold(payloads.start(), payloads.broken_update(1, "op", "nan")).tamiyo

    assert tamiyo.group_inf_latch == tamiyo.group_nan_latch == {SHARED: False, HOSTS: False}


def test_a_run_names_its_own_heads(payloads, fold):
    snapshot = fold(
        payloads.start(heads={"move": ["left", "right"], "fire": ["no", "yes"]}),
        payloads.broken_update(1, "fire", "nan"),
    )

    assert snapshot.tamiyo.head_inf_latch == {"move": False, "fire": False}
    assert snapshot.tamiyo.head_nan_latch == {"move": False, "fire": True}
    assert snapshot.run.heads["move"] == ("left", "right")


def test_a_head_that_the_run_did_not_name_still_gets_a_light(payloads, fold):
    snapshot = fold(payloads.start(), payloads.broken_update(1, "mystery", "+inf"))

    assert lit(snapshot.tamiyo.head_inf_latch) == ["mystery"]
    assert snapshot.tamiyo.head_nan_latch["mystery"] is False
    assert snapshot.run.heads["mystery"] == ()


def test_the_first_sighting_in_the_run_is_the_first_out(payloads, fold):
    first = fold(
        payloads.start(),
        payloads.update(
            2,
            head_nonfinite=[
                payloads.sighting(head="slot", epoch=2, minibatch=1),
                payloads.sighting(head="op", epoch=1, minibatch=3, kind="nan"),
            ],
        ),
        payloads.broken_update(3, "op", "nan"),
        payloads.broken_update(3, "op", "+inf"),
    ).tamiyo.first

    assert [(one.head, one.kind, one.update, one.epoch) for one in first] == [
        ("op", "nan", 2, 1),
        ("slot", "+inf", 2, 2),
        ("op", "+inf", 3, 1),
    ]


def test_within_a_minibatch_the_first_out_is_what_is_computed_first(payloads, fold):
    sightings = [
        payloads.sighting(head="slot", quantity="gradient", kind="nan"),
        payloads.sighting(head=SHARED, quantity="policy_loss", kind="nan"),
        payloads.sighting(head="op", quantity="logits", kind="+inf"),
        payloads.sighting(head="op", quantity="log_prob", kind="nan"),
        payloads.sighting(head="blueprint", quantity="logits", kind="+inf"),
    ]
    first = fold(payloads.start(), payloads.update(1, head_nonfinite=sightings)).tamiyo.first

    assert [(one.head, one.quantity) for one in first] == [
        ("blueprint", "logits"),
        ("op", "logits"),
        ("op", "log_prob"),
        (SHARED, "policy_loss"),
        ("slot", "gradient"),
    ]


# Figures


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_active_while_its_cause_lasts(payloads, fold, group):
    seen = payloads.sighting(head=group, quantity="value", kind="-inf")
    bad = payloads.update(1, head_nonfinite=[seen])

    assert lit(fold(bad).tamiyo.group_inf_active) == [group]
    assert lit(fold(bad).tamiyo.group_nan_active) == []
    assert lit(fold(bad, payloads.update(2)).tamiyo.group_inf_active) == []


def test_a_sighting_that_was_reproduced_once_stays_reproduced(payloads, fold):
    def update(number, quantity, *, reproduced):
        seen = payloads.sighting(quantity=quantity, kind="nan", reproduced=reproduced)
        return payloads.update(number, head_nonfinite=[seen])

    once = update(2, "logits", reproduced=False)
    assert not fold(once).tamiyo.first[0].reproduced
    assert not fold(once, update(3, "ratio", reproduced=True)).tamiyo.first[0].reproduced
    again = fold(update(5, "logits", reproduced=True), update(3, "ratio", reproduced=True), once)
    assert (again.tamiyo.first[0].update, again.tamiyo.first[0].reproduced) == (2, True)
    assert [row.reproduced for row in again.tamiyo.evidence] == [True, True]


def test_sightings_of_one_update_are_ordered_by_phase(payloads, fold):
    seen = [
        payloads.sighting(head="slot", kind="nan", epoch=1, minibatch=1),
        payloads.sighting(head="op", kind="nan", epoch=0, minibatch=0, phase="preparation"),
        payloads.sighting(head="tempo", kind="nan", epoch=0, minibatch=0, phase="acting", step=9),
        payloads.sighting(head="style", kind="nan", epoch=0, minibatch=0, phase="acting", step=2),
        payloads.sighting(head=HOSTS, quantity="loss", kind="nan", epoch=0, minibatch=0, **IN_HOST),
        payloads.sighting(
            head=SHARED, quantity="parameters", kind="nan", epoch=0, minibatch=0, phase="given"
        ),
        payloads.sighting(head="blueprint", kind="nan", epoch=0, minibatch=0, phase="of tomorrow"),
    ]
    tamiyo = fold(payloads.start(), payloads.update(1, head_nonfinite=seen)).tamiyo

    in_order = [SHARED, HOSTS, "style", "tempo", "op", "slot", "blueprint"]
    assert [one.head for one in tamiyo.first] == in_order
    assert [row.head for row in tamiyo.evidence] == in_order


# Resuming


def test_a_resumed_run_keeps_its_lights_and_repeats_the_events_of_repeated_updates(payloads, fold):
    snapshot = fold(
        payloads.start(),
        *(payloads.update(update, policy_loss=float(update)) for update in (1, 2)),
        payloads.broken_update(3, "op", "+inf", policy_loss=3.0),
        payloads.episodes(3),
        payloads.start(resumed_from_update=1, pid=5),
        payloads.update(2, policy_loss=20.0),
    )

    assert lit(snapshot.tamiyo.head_inf_latch) == ["op"]
    assert snapshot.tamiyo.first[0].update == 3
    assert snapshot.training.policy_loss_history == (1.0, 20.0)
    assert snapshot.training.score is None
    assert (snapshot.run.update, snapshot.run.episodes_done) == (2, 4)
    assert (snapshot.run.phase, snapshot.run.pid) == ("training", 5)
    assert snapshot.run.started_at == 1_001.0
    assert "resumed after update 1 by process 5" in log_texts(snapshot)

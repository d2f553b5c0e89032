"""The fold: lights that never go out, and figures that follow the run."""

import math

import pytest

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.fold.history import BUCKETS_KEPT
from esper.karn.sanctum.fold.host_ledger import STEPS_KEPT
from esper.karn.sanctum.fold.log_book import LOG_LINES_KEPT
from esper.karn.sanctum.schema import InterventionState, SanctumSnapshot, SlotState
from esper.leyline.heads import HEAD_NAMES, Stage
from esper.leyline.telemetry import (
    GROUPS,
    HOSTS,
    SHARED,
    Event,
    IncidentRecorded,
    InterventionTaken,
    Notice,
)

IN_HOST = {"phase": "hosts", "host": 1, "step": 3}


def lit(latch):
    return [head for head, is_lit in latch.items() if is_lit]


def log_texts(snapshot, level=None):
    return [entry.text for entry in snapshot.log if level in (None, entry.level)]


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


def test_a_light_stays_lit_when_its_trouble_has_passed(payloads, fold):
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


def test_a_sighting_lights_even_if_its_update_forgot_to_say_detected(payloads, fold):
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


def test_a_run_of_before_there_were_groups_shows_them_dark(payloads, fold):
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


def test_a_head_that_the_run_did_not_name_gets_a_light_all_the_same(payloads, fold):
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


def test_nothing_was_measured_before_the_first_event():
    assert SanctumAggregator().snapshot() == SanctumSnapshot()


def test_the_run_has_the_values_of_its_start_event(payloads, fold):
    run = fold(payloads.start()).run

    assert (run.run_id, run.name, run.task) == ("20261122-193000-test", "test", "mnist1d")
    assert (run.device, run.seed, run.environments) == ("cpu", 7, 2)
    assert (run.episodes, run.steps, run.host_parameters) == (10, 24, 858)
    assert (run.pid, run.process_start_time) == (4_000_000, 1_000.0)
    assert run.slots == ("early", "middle", "late")
    assert (run.phase, run.started_at) == ("training", 1_001.0)


def test_training_figures_are_those_of_the_last_update_with_their_histories(payloads, fold):
    training = fold(
        payloads.update(1, policy_loss=0.5, minibatches_skipped=2),
        payloads.update(2, policy_loss=math.nan, minibatches_skipped=1),
        payloads.update(3, policy_loss=-0.5),
        payloads.episodes(3, score=[0.25, 0.75]),
    ).training

    assert training.policy_loss == -0.5
    assert (training.policy_loss_history[0], training.policy_loss_history[2]) == (0.5, -0.5)
    assert math.isnan(training.policy_loss_history[1])
    assert (training.value_loss, training.entropy, training.approximate_kl) == (0.5, 3.0, 0.01)
    assert (training.clip_fraction, training.explained_variance) == (0.1, 0.6)
    assert (training.gradient_norm, training.learning_rate) == (1.5, 2e-3)
    assert training.clip_fraction_history == (0.1, 0.1, 0.1)
    assert (training.minibatches, training.minibatches_skipped) == (8, 0)
    assert training.skipped_in_run == 3
    assert training.score == 0.5
    assert training.score_history == (0.5,)


def test_an_update_without_a_minibatch_that_was_learnt_from_has_no_figures(payloads, fold):
    left_out = {"minibatches_skipped": 5, "minibatches_stopped": 2, "minibatches_rescaled": 1}
    figures = dict.fromkeys(("policy_loss", "entropy", "approximate_kl"), math.nan)
    heads = {"head_ratio_max": {}, "head_entropy": {}}
    training, tamiyo = (
        getattr(fold(payloads.update(1), payloads.update(2, **left_out, **figures, **heads)), part)
        for part in ("training", "tamiyo")
    )

    assert (training.policy_loss, training.entropy, training.approximate_kl) == (None, None, None)
    assert training.policy_loss_history == (-0.01,)
    assert training.explained_variance == 0.6  # of the whole batch of episodes
    assert tamiyo.figures.head_ratio_max == tamiyo.figures.head_entropy == {}


def test_head_figures_have_trends_that_keep_what_is_not_finite(payloads, fold):
    tamiyo = fold(
        payloads.update(1, head_entropy={"op": 0.9}, head_ratio_max={"op": math.inf}),
        payloads.update(2, head_entropy={"slot": 0.4}, head_ratio_max={"op": 2.0}),
    ).tamiyo

    assert tamiyo.figures.head_entropy == {"slot": 0.4}
    assert tamiyo.history("head_entropy", "op") == (0.9,)
    assert tamiyo.history("head_entropy", "slot") == (0.4,)
    assert tamiyo.history("head_ratio_max", "op") == (math.inf, 2.0)


def test_hosts_are_those_of_the_last_step(payloads, fold):
    hosts = fold(
        payloads.start(),
        payloads.step(1),
        payloads.step(
            2,
            first_episode=1,
            accuracy=[0.5, 0.6],
            stages=[[0, 3, 0], [5, 0, 0]],
            alphas=[[0.0, 0.25, 0.0], [1.0, 0.0, 0.0]],
            blueprints=[[-1, 3, -1], [0, -1, -1]],
        ),
    ).hosts

    assert [(host.host, host.episode, host.accuracy) for host in hosts] == [
        (0, 1, 0.5),
        (1, 2, 0.6),
    ]
    assert hosts[0].accuracy_history == (0.11, 0.5)
    assert hosts[0].slots[1] == SlotState(Stage.BLENDING, 0.25, 3)
    assert hosts[1].slots[0] == SlotState(Stage.FOSSILIZED, 1.0, 0)
    assert (hosts[0].loss, hosts[0].parameters, hosts[0].reward) == (2.0, 858, 0.25)


def test_the_curve_of_a_host_restarts_with_each_episode(payloads, fold):
    hosts = fold(
        payloads.step(1),
        payloads.step(2),
        payloads.step(1, first_episode=3, update=2, accuracy=[0.7, 0.8]),
    ).hosts

    assert hosts[0].accuracy_history == (0.7,)
    assert hosts[0].episode == 3


def test_the_last_batch_may_have_fewer_hosts(payloads, fold):
    hosts = fold(payloads.step(1), payloads.step(1, hosts=1, first_episode=3)).hosts

    assert len(hosts) == 1


def test_speed_is_steps_of_all_hosts_over_the_time_between_events(payloads, fold):
    run = fold(*(payloads.step(step, hosts=4) for step in range(1, 6))).run

    assert run.steps_per_second == 4.0  # four hosts a second
    assert run.samples_per_second == 100_000.0
    assert run.step == 5


def test_the_speed_in_samples_is_that_of_all_steps_of_the_batch(payloads, fold):
    speeds = [10_000.0, 40_000.0]
    run = fold(
        payloads.step(9, samples_per_second=1.0, first_episode=1),
        *(
            payloads.step(step, samples_per_second=speed, first_episode=3)
            for step, speed in enumerate(speeds, start=1)
        ),
    ).run
    assert run.samples_per_second == 16_000.0  # as many samples at each of the two speeds

    broken = fold(*(payloads.step(n, samples_per_second=x) for n, x in ((1, 1e4), (2, math.inf))))
    assert broken.run.samples_per_second == math.inf


def test_a_clock_that_was_set_back_gives_no_speed(payloads, fold_events):
    events = [
        Event(id=1, time=100.0, payload=payloads.step(1)),
        Event(id=2, time=50.0, payload=payloads.step(2)),
    ]

    assert fold_events(events).run.steps_per_second is None


def test_progress_is_what_was_completed(payloads, fold):
    run = fold(payloads.start(), payloads.episodes(1), payloads.update(1)).run

    assert (run.update, run.episodes_done) == (1, 2)


def test_a_run_ends_as_it_says(payloads, fold):
    for status in ("finished", "stopped", "halted", "failed"):
        snapshot = fold(payloads.start(), payloads.finish(status, reason="so it is"))
        assert (snapshot.run.phase, snapshot.run.reason) == (status, "so it is")
        assert log_texts(snapshot)[-1] == f"{status} after 10 episodes, 5 updates: so it is"


def test_histories_and_log_are_bounded(payloads, fold):
    many = 5 * BUCKETS_KEPT
    snapshot = fold(
        *(payloads.broken_update(update, "op", "+inf") for update in range(1, many + 1)),
        *(payloads.step(step) for step in range(1, STEPS_KEPT + 20)),
        *(Notice(level="info", text="x") for _ in range(LOG_LINES_KEPT + 20)),
    )

    assert len(snapshot.training.policy_loss_history) <= 3 * BUCKETS_KEPT
    assert len(snapshot.tamiyo.history("head_entropy", "op")) <= 3 * BUCKETS_KEPT
    assert len(snapshot.hosts[0].accuracy_history) == STEPS_KEPT
    assert len(snapshot.log) == LOG_LINES_KEPT + 1  # the line of a latch is never dropped
    assert snapshot.training.skipped_in_run == many


def test_an_event_that_was_seen_already_changes_nothing(payloads, fold_events):
    events = payloads.events(
        payloads.start(), payloads.broken_update(1, "op", "nan"), payloads.step(1)
    )

    assert fold_events([*events, *events, events[1]]) == fold_events(events)


def test_a_snapshot_is_the_same_object_until_something_happens(payloads):
    aggregator = SanctumAggregator()
    first, second = payloads.events(payloads.start(), payloads.update())
    aggregator.apply(first)
    before = aggregator.snapshot()
    aggregator.apply(first)
    assert aggregator.snapshot() is before
    aggregator.apply(second)
    assert aggregator.snapshot() is not before


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_active_while_its_trouble_goes_on(payloads, fold, group):
    seen = payloads.sighting(head=group, quantity="value", kind="-inf")
    bad = payloads.update(1, head_nonfinite=[seen])

    assert lit(fold(bad).tamiyo.group_inf_active) == [group]
    assert lit(fold(bad).tamiyo.group_nan_active) == []
    assert lit(fold(bad, payloads.update(2)).tamiyo.group_inf_active) == []


def test_what_was_reproduced_once_is_never_called_not_reproduced(payloads, fold):
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


def test_what_was_done_about_bad_updates_is_counted(payloads, fold_events):
    actions = ("skip", "skip", "rollback", "skip", "halt", "pray", "repeat")
    events = payloads.events(
        *(
            InterventionTaken(update=number, action=action, cause="op logits +inf", reason="")
            for number, action in enumerate(actions, start=1)
        ),
        IncidentRecorded(update=1, number=1, path="incidents/0001", size=10),
        IncidentRecorded(update=2, number=2, path="", size=0, reason="3 like it are kept"),
    )
    snapshot = fold_events([*events, *events])

    assert snapshot.interventions == InterventionState(
        updates_repeated=1,
        updates_skipped=3,
        updates_rolled_back=1,
        halts=1,
        incidents=2,
        incidents_not_kept=1,
    )
    levels = ["error", "warning", "error", "error", "warning"]
    assert [entry.level for entry in snapshot.log[2:7]] == levels


def test_what_the_loss_scale_cost_is_counted_apart(payloads, fold):
    training = fold(
        payloads.update(1, minibatches_rescaled=2, loss_scale=32_768.0),
        payloads.update(2, minibatches_rescaled=1, loss_scale=16_384.0),
    ).training

    assert (training.minibatches_rescaled, training.rescaled_in_run) == (1, 3)
    assert training.loss_scale == 16_384.0
    assert training.skipped_in_run == 0
    assert fold(payloads.update(1)).training.loss_scale is None


# Resuming


def test_a_resumed_run_keeps_its_lights_and_tells_again_what_it_trains_again(payloads, fold):
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


def test_a_run_that_was_stopped_and_resumed_is_training(payloads, fold):
    run = fold(
        payloads.start(),
        payloads.update(1),
        payloads.finish("stopped", update=1, episodes_done=2),
        payloads.start(resumed_from_update=1),
    ).run

    assert (run.phase, run.reason) == ("training", "")
    assert (run.update, run.episodes_done) == (1, 2)

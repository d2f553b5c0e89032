"""The fold of a run: progress, figures, hosts, speed and interventions."""

import math

from fold_checks import log_texts

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.fold.ledgers.history import BUCKETS_KEPT
from esper.karn.sanctum.fold.ledgers.host_ledger import STEPS_KEPT
from esper.karn.sanctum.fold.log_book import LOG_LINES_KEPT
from esper.karn.sanctum.schema import InterventionState, SanctumSnapshot, SlotState
from esper.leyline.heads import Stage
from esper.leyline.telemetry import (
    Event,
    IncidentRecorded,
    InterventionTaken,
    Notice,
)


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


def test_an_update_whose_minibatches_were_all_skipped_has_no_figures(payloads, fold):
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


def test_a_run_that_was_stopped_and_resumed_is_training(payloads, fold):
    run = fold(
        payloads.start(),
        payloads.update(1),
        payloads.finish("stopped", update=1, episodes_done=2),
        payloads.start(resumed_from_update=1),
    ).run

    assert (run.phase, run.reason) == ("training", "")
    assert (run.update, run.episodes_done) == (1, 2)

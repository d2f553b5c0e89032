"""The fold: lights that never go out, figures that follow the run, and a log in sentences."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.aggregator import (
    LOG_LINES_KEPT,
    STEPS_KEPT,
    UPDATES_KEPT,
    SanctumAggregator,
)
from esper.karn.sanctum.schema import SanctumSnapshot, SlotState
from esper.leyline.heads import HEAD_NAMES, Stage
from esper.leyline.telemetry import (
    SHARED,
    CheckpointWritten,
    DamagedPayload,
    DecisionsTaken,
    Event,
    Heartbeat,
    Notice,
    UnknownPayload,
)


def folded(events):
    aggregator = SanctumAggregator()
    for event in events:
        aggregator.apply(event)
    return aggregator.snapshot()


@pytest.fixture
def fold(payloads) -> Callable[..., SanctumSnapshot]:
    """A function that folds payloads, as events one second apart, into a snapshot."""
    return lambda *these: folded(payloads.events(*these))


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


def test_what_is_shared_has_lights_of_its_own(payloads, fold):
    snapshot = fold(
        payloads.start(),
        payloads.update(
            1, head_nonfinite=[payloads.sighting(head=SHARED, quantity="value", kind="nan")]
        ),
    )

    assert snapshot.tamiyo.shared_nan_latch
    assert not snapshot.tamiyo.shared_inf_latch
    assert lit(snapshot.tamiyo.head_nan_latch) == []
    assert SHARED not in snapshot.tamiyo.head_nan_latch
    assert log_texts(snapshot, "latch") == [
        "the shared part went NaN first in value, update 1, epoch 1, minibatch 1"
    ]


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


heads = st.sampled_from([*HEAD_NAMES, SHARED, "mystery"])
sightings = st.fixed_dictionaries(
    {
        "head": heads,
        "quantity": st.sampled_from(["logits", "ratio", "gradient", "novelty"]),
        "kind": st.sampled_from(["nan", "+inf", "-inf"]),
        "epoch": st.integers(1, 2),
        "minibatch": st.integers(1, 2),
    }
)
updates = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.dictionaries(heads.filter(lambda head: head != SHARED), st.booleans(), max_size=3),
        st.dictionaries(heads.filter(lambda head: head != SHARED), st.booleans(), max_size=3),
        st.lists(sightings, max_size=3),
    ),
    max_size=8,
)


def lights(snapshot):
    tamiyo = snapshot.tamiyo
    return (
        tamiyo.head_inf_latch,
        tamiyo.head_nan_latch,
        tamiyo.shared_inf_latch,
        tamiyo.shared_nan_latch,
        tamiyo.first,
    )


@given(updates, st.randoms(use_true_random=False))
def test_lights_are_the_same_in_any_order_and_with_any_repetition(payloads, described, random):
    events = payloads.events(
        payloads.start(),
        *(
            payloads.update(
                update,
                head_inf_detected=inf,
                head_nan_detected=nan,
                head_nonfinite=[payloads.sighting(**one) for one in seen],
            )
            for update, inf, nan, seen in described
        ),
    )
    shuffled = [*events, *random.choices(events, k=len(events))]
    random.shuffle(shuffled)

    assert lights(folded([events[0], *shuffled])) == lights(folded(events))


@given(updates, st.integers(0, 8))
def test_lights_of_two_readers_joined_are_those_of_one(payloads, described, cut):
    from esper.karn.sanctum.latches import Latches

    found = [
        Latches.of(
            payloads.update(
                update,
                head_inf_detected=inf,
                head_nan_detected=nan,
                head_nonfinite=[payloads.sighting(**one) for one in seen],
            )
        )
        for update, inf, nan, seen in described
    ]

    def joined(parts):
        whole = Latches()
        for part in parts:
            whole = whole.join(part)
        return whole

    left, right = joined(found[:cut]), joined(found[cut:])
    assert left.join(right) == right.join(left) == joined(found)
    assert left.join(left) == left


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


# Figures


def test_nothing_was_measured_before_the_first_event():
    assert SanctumAggregator().snapshot() == SanctumSnapshot()


def test_the_run_is_what_its_start_said(payloads, fold):
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


def test_head_figures_have_trends_that_keep_what_is_not_finite(payloads, fold):
    tamiyo = fold(
        payloads.update(1, head_entropy={"op": 0.9}, head_ratio_max={"op": math.inf}),
        payloads.update(2, head_entropy={"slot": 0.4}, head_ratio_max={"op": 2.0}),
    ).tamiyo

    assert tamiyo.head_entropy == {"slot": 0.4}
    assert tamiyo.head_trend["op"].entropy == (0.9,)
    assert tamiyo.head_trend["slot"].entropy == (0.4,)
    assert tamiyo.head_trend["op"].ratio_max == (math.inf, 2.0)


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


def test_the_curve_of_a_host_begins_anew_with_its_episode(payloads, fold):
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


def test_a_clock_that_was_set_back_gives_no_speed(payloads):
    events = [
        Event(id=1, time=100.0, payload=payloads.step(1)),
        Event(id=2, time=50.0, payload=payloads.step(2)),
    ]

    assert folded(events).run.steps_per_second is None


def test_progress_is_what_was_completed(payloads, fold):
    run = fold(payloads.start(), payloads.episodes(1), payloads.update(1)).run

    assert (run.update, run.episodes_done) == (1, 2)


def test_a_run_ends_as_it_says(payloads, fold):
    for status in ("finished", "stopped", "halted", "failed"):
        snapshot = fold(payloads.start(), payloads.finish(status, reason="so it is"))
        assert (snapshot.run.phase, snapshot.run.reason) == (status, "so it is")
        assert log_texts(snapshot)[-1] == f"{status} after 10 episodes, 5 updates: so it is"


def test_histories_and_log_are_bounded(payloads, fold):
    many = UPDATES_KEPT + 50
    snapshot = fold(
        *(payloads.broken_update(update, "op", "+inf") for update in range(1, many + 1)),
        *(payloads.step(step) for step in range(1, STEPS_KEPT + 20)),
        *(Notice(level="info", text="x") for _ in range(LOG_LINES_KEPT + 20)),
    )

    assert len(snapshot.training.policy_loss_history) == UPDATES_KEPT
    assert len(snapshot.tamiyo.head_trend["op"].entropy) == UPDATES_KEPT
    assert len(snapshot.hosts[0].accuracy_history) == STEPS_KEPT
    assert len(snapshot.log) == LOG_LINES_KEPT
    assert snapshot.training.skipped_in_run == many


def test_an_event_that_was_seen_already_changes_nothing(payloads):
    events = payloads.events(
        payloads.start(), payloads.broken_update(1, "op", "nan"), payloads.step(1)
    )

    assert folded([*events, *events, events[1]]) == folded(events)


def test_a_snapshot_is_the_same_object_until_something_happens(payloads):
    aggregator = SanctumAggregator()
    first, second = payloads.events(payloads.start(), payloads.update())
    aggregator.apply(first)
    before = aggregator.snapshot()
    aggregator.apply(first)
    assert aggregator.snapshot() is before
    aggregator.apply(second)
    assert aggregator.snapshot() is not before


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


# The log and the monitor


def test_the_log_tells_what_matters_in_sentences(payloads, fold):
    snapshot = fold(
        payloads.start(),
        payloads.transition(Stage.GERMINATED),
        payloads.transition(Stage.TRAINING),
        payloads.transition(Stage.BLENDING),
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
        ("info", "episode 2, host 1: conv germinated in middle"),
        ("info", "episode 2, host 1: conv blending in middle"),
        ("info", "episode 2, host 1: conv fossilised in middle"),
        ("info", "episode 2, host 1: #99 pruned in #9"),
        ("info", "episodes 1–2 of 10 done: score 0.500, 3 seeds fossilised"),
        ("warning", "update 1: 3 of 8 minibatches skipped as non-finite"),
        ("info", "checkpoint of update 1 written: checkpoints/update-1.pt"),
        ("error", "no space left"),
    ]
    assert snapshot.log[0].time == 1_001.0
    assert snapshot.run.checkpoint == "checkpoints/update-1.pt"


@pytest.mark.parametrize("scores", [[math.nan, 1.0], [math.inf, -math.inf], [1e308, 1e308]])
def test_a_score_that_is_not_finite_is_shown_as_what_it_is(payloads, fold, scores):
    score = fold(payloads.episodes(1, score=scores)).training.score

    assert score is not None
    assert math.isnan(score) == (scores[0] != 1e308)
    assert fold(payloads.episodes(1, score=[])).training.score is None


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


def test_a_heartbeat_tells_of_lost_events_whatever_its_id(payloads):
    aggregator = SanctumAggregator()
    for event in payloads.events(payloads.start(), payloads.update()):
        aggregator.apply(event)
    beat = Heartbeat(pid=9, process_start_time=5.0, events_lost=3, error="the disk is full")
    aggregator.apply(Event(id=0, time=2_000.0, payload=beat))
    snapshot = aggregator.snapshot()

    assert (snapshot.run.events_lost, snapshot.run.pid) == (3, 9)
    assert snapshot.last_event_id == 2
    assert log_texts(snapshot, "error") == [
        "events the monitor could not store: 3 (the disk is full)"
    ]

"""Any update of a run, from anywhere: the same state that a fold from the start gives."""

import functools
import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.cockpit.observer import RunObserver, UpdateNotFoundError, read_view
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.playback import Playback
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_files.acknowledgements import acknowledge
from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.heads import Stage
from esper.leyline.telemetry import CheckpointWritten, DecisionsTaken, PPOUpdatePayload, RunStarted

NOW = 5_000.0


def long_run(payloads, *, updates, seed):
    """Yield the payloads of a run that is resumed several times, with different values."""
    chance = random.Random(seed)
    yield payloads.start()
    done = 0
    while done < updates:
        done += 1
        for step in range(1, chance.randint(1, 40)):
            yield DecisionsTaken(update=done, step=step, actions=[], probabilities=[], values=[])
            yield payloads.step(
                step, update=done, first_episode=2 * done - 1, loss=[chance.random(), 0.5]
            )
            for _ in range(chance.choice((0, 0, 1, 30))):
                yield payloads.transition(chance.choice(list(Stage)), update=done, step=step)
        yield payloads.episodes(done, score=[chance.random()])
        if chance.random() < 0.2:
            yield payloads.broken_update(done, "op", "nan", policy_loss=chance.random())
        else:
            yield payloads.update(done, policy_loss=chance.random())
        if chance.random() < 0.5:
            yield CheckpointWritten(update=done, path=f"checkpoints/{done}", size=1)
        if chance.random() < 0.1:
            done = max(0, done - chance.randint(0, 3))
            yield payloads.start(resumed_from_update=done)
    yield payloads.finish(update=done)


@pytest.fixture(scope="module")
def stored(tmp_path_factory, payloads):
    """A run of 60 updates, its events, and where each update lies in them."""
    directory = tmp_path_factory.mktemp("run")
    with RunWriter(directory) as writer:
        for payload in long_run(payloads, updates=60, seed=4):
            writer.emit(payload)
    events = RunReader(directory).read(0, 1_000_000)
    return directory, events


def fold_from_the_start(events, update):
    """Return the state after an update, the slow and obvious way."""
    emitted = [
        number
        for number, event in enumerate(events)
        if isinstance(event.payload, PPOUpdatePayload) and event.payload.update == update
    ][-1]
    aggregator = SanctumAggregator()
    for number, event in enumerate(events):
        begins = isinstance(event.payload, (RunStarted, PPOUpdatePayload)) or hasattr(
            event.payload, "step"
        )
        if number > emitted and begins:
            break
        aggregator.apply(event)
    return aggregator.snapshot()


@pytest.fixture(scope="module")
def folded(stored):
    """Return the state after an update, folded from the start once."""
    return functools.cache(lambda update: fold_from_the_start(stored[1], update))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(jumps=st.lists(st.integers(1, 60), min_size=1, max_size=5), kept=st.integers(1, 40))
def test_a_jump_gives_what_a_fold_from_the_start_gives(stored, folded, monkeypatch, jumps, kept):
    directory, _ = stored
    monkeypatch.setattr("esper.karn.sanctum.following.update_index.STATES_KEPT", kept)
    follower = RunFollower(directory)
    follower.catch_up()

    for update in jumps:
        assert follower.state_after(update) == folded(update)


def test_a_run_that_was_followed_from_its_start_can_be_gone_back_in(run, payloads):
    follower = RunFollower(run)
    with RunWriter(run) as writer:
        for number, payload in enumerate(long_run(payloads, updates=20, seed=5)):
            writer.emit(payload)
            if number % 53 == 0:
                writer.flush()
                follower.poll(NOW)
    follower.catch_up()
    events = RunReader(run).read(0, 1_000_000)

    for update in (20, 3, 11, 12, 1):
        assert follower.state_after(update) == fold_from_the_start(events, update)


def test_the_state_after_the_last_update_of_a_finished_run_is_its_end(stored):
    directory, _ = stored
    newest = read_view(directory, NOW)
    last = read_view(directory, NOW, at=60)

    assert last.snapshot.run.phase == "finished"
    assert last.snapshot.training == newest.snapshot.training
    assert (last.position.update, last.position.updates) == (60, 60)
    assert newest.position is None


def test_an_update_that_is_not_there_is_one_sentence(stored, run, payloads):
    directory, _ = stored
    for update in (0, -1, 61):
        with pytest.raises(
            UpdateNotFoundError, match=rf"no update {update}: give a number from 1 to 60"
        ):
            read_view(directory, NOW, at=update)
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
    with pytest.raises(UpdateNotFoundError, match="not completed one yet"):
        read_view(run, NOW, at=1)


def test_what_an_update_had_not_seen_yet_is_dark(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
        writer.emit(payloads.broken_update(2, "op", "+inf"))
        writer.emit(payloads.finish("halted"))

    before, after = (read_view(run, NOW, at=update) for update in (1, 2))
    assert not before.snapshot.tamiyo.head_inf_latch["op"]
    assert after.snapshot.tamiyo.head_inf_latch["op"]
    assert before.verdict.reasons == ()
    assert after.verdict.reasons
    assert before.status.kind is after.status.kind is StatusKind.HALTED
    assert before.position.lit_now == after.position.lit_now == (("op", "inf"),)


def test_what_went_first_still_leads_once_it_was_acknowledged(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.broken_update(1, "op", "+inf"))
        writer.emit(payloads.finish("halted"))

    before = read_view(run, NOW)
    acknowledge(run, [("op", "inf")], "somebody", NOW)
    after = read_view(run, NOW)
    assert before.verdict.level is after.verdict.level
    assert before.verdict.reasons[0].startswith("op went Inf")
    assert after.verdict.reasons == before.verdict.reasons


# The observer


@pytest.fixture
def observer(stored):
    """A observer that has seen all of the run."""
    observer = RunObserver(stored[0], Path("nowhere"))
    while observer(NOW).is_behind:
        pass
    return observer


def updates_shown(observer, *times):
    return [
        view.position.update if view.position else None for view in (observer(at) for at in times)
    ]


def test_one_goes_to_an_update_and_back_to_now(observer):
    assert observer(NOW).position is None
    observer.go_to(7)
    view = observer(NOW)
    assert (view.position.update, view.position.updates, view.position.speed) == (7, 60, 0)
    assert view.snapshot.run.update == 7
    observer.go_to(None)
    assert observer(NOW).position is None
    assert observer(NOW).snapshot.run.update == 60


def test_beyond_the_ends_is_the_nearest_there_is(observer):
    for asked, shown in ((-5, 1), (0, 1), (1_000, 60)):
        observer.go_to(asked)
        view = observer(NOW)
        assert (view.position.update, view.snapshot.run.update) == (shown, shown)


def test_playing_goes_by_the_clock_and_stops_at_the_end(observer):
    observer.go_to(50)
    observer.play(4)
    assert updates_shown(observer, NOW, NOW + 0.2, NOW + 0.5, NOW + 1.0) == [50, 50, 52, 54]
    observer.play(16)
    assert updates_shown(observer, NOW + 1.0, NOW + 1.25, NOW + 2.0) == [54, 58, 60]
    assert observer(NOW + 3.0).position.speed == 0


def test_playing_from_now_begins_with_the_first_update(observer):
    observer.play(1)
    assert updates_shown(observer, NOW, NOW + 1.0) == [1, 2]
    observer.play(0)
    assert updates_shown(observer, NOW + 9.0, NOW + 99.0) == [2, 2]


def test_a_clock_that_jumps_plays_next_to_nothing(observer):
    observer.go_to(10)
    observer.play(1)
    assert updates_shown(observer, NOW, NOW - 1e6, NOW + 1e9, NOW + 1e9 + 1) == [10, 10, 12, 13]


def test_new_events_of_a_run_are_read(run, payloads):
    observer = RunObserver(run, Path("nowhere"))
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update in (1, 2, 3):
            writer.emit(payloads.update(update))
        writer.flush()
        now = time.time()
        observer.play(1)
        assert updates_shown(observer, now) == [1]
        writer.emit(payloads.update(4), durable=True)
        view = observer(now + 1)
        assert (view.position.update, view.position.updates) == (2, 4)
        assert view.status.kind is StatusKind.LIVE
        assert updates_shown(observer, now + 2, now + 4) == [3, None]


def test_a_place_can_be_named_before_there_is_a_run(tmp_path, payloads):
    observer = RunObserver(None, tmp_path, at=2)
    assert observer(NOW).position is None
    directory = tmp_path / "20261122-200000-late"
    directory.mkdir()
    with RunWriter(directory) as writer:
        writer.emit(payloads.start())
        for update in (1, 2, 3):
            writer.emit(payloads.update(update))

    assert updates_shown(observer, NOW) == [2]


def test_any_thread_may_say_where_to_look(observer):
    others = [threading.Thread(target=observer.go_to, args=(place,)) for place in range(1, 40)]
    for other in others:
        other.start()
        view = observer(NOW)
        assert view.position is None or view.snapshot.run.update == view.position.update
    for other in others:
        other.join()
    assert 1 <= observer(NOW).position.update <= 39


def test_a_moment_of_the_past_stays_when_the_run_vanishes(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update in (1, 2, 3):
            writer.emit(payloads.step(update=update))
            writer.emit(payloads.update(update))
    observer = RunObserver(run, Path("nowhere"), at=2)
    before = observer(NOW)
    (run / "run.sqlite").unlink()
    after = observer(NOW)

    assert after.snapshot is before.snapshot
    assert "no run store" in after.doubt.error


@given(
    update=st.integers(-3, 30),
    speed=st.integers(0, 16),
    times=st.lists(st.floats(-1e6, 1e6), max_size=8),
    is_over=st.booleans(),
)
def test_playback_never_leaves_the_run_nor_goes_back(update, speed, times, is_over):
    playback = replace(Playback().going_to(update), speed=speed)
    before = None
    for now in times:
        playback = playback.advanced(now, 20, is_over=is_over)
        if playback.update is None:
            assert not is_over
            break
        assert 1 <= playback.update <= 20
        assert before is None or playback.update >= before
        before = playback.update

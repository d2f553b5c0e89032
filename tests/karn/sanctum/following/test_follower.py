"""The follower: the same answer for a run as it grows, when it is over and after it was killed."""

import os
import random
import shutil
import threading
import time

import pytest

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.heads import Stage
from esper.leyline.telemetry import DecisionsTaken, Notice


def long_run(payloads, *, updates, steps, seed=0):
    """Yield the payloads of a run in which all sorts of things happen."""
    chance = random.Random(seed)
    yield payloads.start()
    for update in range(1, updates + 1):
        for step in range(1, steps + 1):
            yield payloads.step(step, update=update, first_episode=2 * update - 1)
            yield DecisionsTaken(update=update, step=step, actions=[], probabilities=[], values=[])
            if chance.random() < 0.2:
                yield payloads.transition(Stage.BLENDING, update=update, step=step)
        yield payloads.episodes(update)
        if chance.random() < 0.3:
            yield payloads.broken_update(update, "op", "+inf", "ratio", policy_loss=chance.random())
        else:
            yield payloads.update(update, policy_loss=chance.random())
        if update % 7 == 0:
            yield payloads.start(resumed_from_update=update - 2)


def whole_fold(run):
    aggregator = SanctumAggregator()
    for event in RunReader(run).read(0, 1_000_000):
        aggregator.apply(event)
    return aggregator.snapshot()


def without_process(snapshot):
    """Return a snapshot without the figures of the heartbeat, which a fold over events lacks."""
    run = {name: getattr(snapshot.run, name) for name in snapshot.run.__dataclass_fields__}
    for name in ("pid", "process_start_time"):
        del run[name]
    return run, snapshot.tamiyo, snapshot.training, snapshot.hosts, snapshot.log


@pytest.fixture(params=[False, True], ids=["opened for each poll", "kept open"])
def follow(request):
    """Return the maker of followers, which open the store in one way and in the other."""
    followers = []

    def make(run):
        followers.append(RunFollower(run, stays_open=request.param))
        return followers[-1]

    yield make
    for follower in followers:
        follower.close()


def test_a_live_run_is_followed_as_it_grows(follow, run, payloads):
    follower = follow(run)
    with RunWriter(run) as writer:
        writer.emit(payloads.start(), durable=True)
        frame = follower.poll(time.time())
        assert frame.status.kind is StatusKind.LIVE
        assert frame.snapshot.run.update == 0
        writer.emit(payloads.broken_update(1, "op", "+inf"), durable=True)
        frame = follower.poll(time.time())
        assert frame.snapshot.run.update == 1
        assert frame.snapshot.tamiyo.head_inf_latch["op"]
        assert frame.snapshot.run.pid == os.getpid()
        writer.emit(payloads.finish(), durable=True)
        assert follower.poll(time.time()).status.kind is StatusKind.FINISHED
    assert follower.poll(time.time()).snapshot.run.phase == "finished"


def test_a_run_at_rest_is_the_same_object_again(follow, finished_run):
    follower = follow(finished_run)
    snapshot = follower.catch_up().snapshot

    for _ in range(3):
        frame = follower.poll(time.time())
        assert frame.snapshot is snapshot
        assert not frame.is_behind


@pytest.mark.parametrize("seed", [0, 1])
def test_attaching_to_a_long_run_gives_what_a_fold_from_its_start_gives(run, payloads, seed):
    with RunWriter(run) as writer:
        for payload in long_run(payloads, updates=60, steps=12, seed=seed):
            writer.emit(payload)

    attached = RunFollower(run).catch_up().snapshot

    assert without_process(attached) == without_process(whole_fold(run))


def test_following_from_the_start_gives_what_attaching_gives(follow, run, payloads):
    follower = follow(run)
    with RunWriter(run) as writer:
        for number, payload in enumerate(long_run(payloads, updates=40, steps=10)):
            writer.emit(payload)
            if number % 97 == 0:
                writer.flush()
                follower.poll(time.time())
    followed = follower.catch_up().snapshot

    assert without_process(followed) == without_process(RunFollower(run).catch_up().snapshot)


def test_a_poll_takes_in_a_bounded_number_of_events(run, payloads, monkeypatch):
    monkeypatch.setattr("esper.karn.sanctum.following.store_follower.EVENTS_PER_POLL", 100)
    with RunWriter(run) as writer:
        for number in range(250):
            writer.emit(Notice(level="info", text=str(number)))
    follower = RunFollower(run)

    seen = []
    while (frame := follower.poll(time.time())).is_behind:
        seen.append(frame.snapshot.last_event_id)
    assert seen == [100, 200]
    assert frame.snapshot.last_event_id == 250


def test_a_run_that_is_being_created_is_waited_for(follow, run, payloads):
    follower = follow(run)
    frame = follower.poll(time.time())
    assert (frame.status.kind, frame.completeness.unreadable) == (StatusKind.WAITING, None)
    assert frame.snapshot == SanctumSnapshot()
    (run / "run.sqlite").touch()
    assert follower.poll(time.time()).completeness.unreadable is None
    with RunWriter(run) as writer:
        writer.emit(payloads.start(), durable=True)
        assert follower.poll(time.time()).snapshot.run.name == "test"


def test_a_run_without_a_directory_is_one_sentence(follow, tmp_path):
    frame = follow(tmp_path / "nowhere").poll(time.time())

    assert "nowhere is not there" in frame.completeness.unreadable
    assert "\n" not in frame.completeness.unreadable


def test_a_run_that_vanishes_keeps_its_last_picture_and_says_so(follow, finished_run):
    follower = follow(finished_run)
    before = follower.catch_up()
    shutil.rmtree(finished_run)
    after = follower.poll(time.time())

    assert after.snapshot is before.snapshot
    assert "is not there" in after.doubt.error
    assert follower.poll(time.time()).completeness.unreadable == after.doubt.error


def test_a_store_that_goes_bad_is_one_sentence_until_it_is_good_again(follow, finished_run):
    store = finished_run / "run.sqlite"
    follower = follow(finished_run)
    before = follower.catch_up()
    whole = store.read_bytes()
    store.write_bytes(b"no database at all")
    broken = follower.poll(time.time())
    assert "not a run store" in broken.completeness.unreadable
    assert broken.snapshot is before.snapshot
    store.write_bytes(whole)
    assert follower.poll(time.time()).completeness.unreadable is None


def test_a_store_that_is_emptied_keeps_its_last_picture_and_says_so(follow, finished_run):
    follower = follow(finished_run)
    before = follower.catch_up()
    os.truncate(finished_run / "run.sqlite", 0)
    after = follower.poll(time.time())

    assert after.snapshot is before.snapshot
    assert "was emptied" in after.doubt.error
    assert follower.poll(time.time()).completeness.unreadable == after.doubt.error


def test_a_store_that_replaced_another_is_read_from_its_start(follow, finished_run, payloads):
    follower = follow(finished_run)
    assert follower.catch_up().snapshot.run.update == 2
    aside = finished_run / "aside.sqlite"
    (finished_run / "run.sqlite").rename(aside)
    with RunWriter(finished_run) as writer:
        writer.emit(payloads.start(name="another"))

    snapshot = follower.catch_up().snapshot
    assert (snapshot.run.name, snapshot.run.update) == ("another", 0)


def test_a_follower_keeps_a_changing_store_open(run, payloads, monkeypatch):
    monkeypatch.setattr(
        "esper.karn.store.writing.run_writer._FINISH_SECONDS", 0.05
    )  # it hardly waits
    follower = RunFollower(run, stays_open=True)
    with RunWriter(run) as writer:
        writer.emit(payloads.start(), durable=True)
        follower.poll(time.time())
    assert (run / "run.sqlite-wal").exists(), "another process must hold it open"

    follower.close()
    with RunWriter(run):
        pass
    assert [path.name for path in run.glob("run.sqlite*")] == ["run.sqlite"]


def test_a_writer_that_ends_without_a_word_is_not_held_up(run, payloads):
    follower = RunFollower(run, stays_open=True)
    writer = RunWriter(run)
    writer.emit(payloads.start(), durable=True)
    follower.poll(time.time())
    closing = threading.Thread(target=writer.close)
    closing.start()
    while closing.is_alive():
        follower.poll(time.time())
        closing.join(0.1)

    assert [path.name for path in run.glob("run.sqlite*")] == ["run.sqlite"]
    follower.close()


def test_a_follower_closes_the_store_of_a_finished_run(run, payloads, monkeypatch):
    monkeypatch.setattr(
        "esper.karn.store.writing.run_writer._FINISH_SECONDS", 0.05
    )  # it hardly waits
    follower = RunFollower(run, stays_open=True)
    writer = RunWriter(run)
    writer.emit(payloads.start(), durable=True)
    follower.poll(time.time())
    writer.emit(payloads.finish(), durable=True)
    assert follower.poll(time.time()).status.is_over

    writer.close()
    assert [path.name for path in run.glob("run.sqlite*")] == ["run.sqlite"]

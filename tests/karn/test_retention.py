"""A store stays below its limit, and what its lights, updates and episodes rest on stays whole."""

import sqlite3
import time

import pytest

from esper.karn.sanctum.cockpit.observer import read_view
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.telemetry import EpisodesCompleted, PPOUpdatePayload, StepCompleted

LIMIT = 1 << 20
UPDATES, STEPS = 60, 24


@pytest.fixture
def thinned(run, payloads, monkeypatch):
    """A run of far more events than its store may hold, whose second update lit op."""
    monkeypatch.setattr("esper.karn.store.writing.run_writer.HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr("esper.karn.store.writing.run_writer._THINNING_SECONDS", 5.0)
    monkeypatch.setattr("esper.karn.store.writing.store_connection._NEVER_THINNED", 200)
    monkeypatch.setattr("esper.karn.store.writing.store_connection._THINNED_AT_ONCE", 64)
    with RunWriter(run, limit_bytes=LIMIT) as writer:
        writer.emit(payloads.start())
        for update in range(1, UPDATES + 1):
            for step in range(1, STEPS + 1):
                writer.emit(payloads.step(step, hosts=20, update=update))
            writer.emit(payloads.episodes(update))
            payload = payloads.update(update)
            if update == 2:
                payload = payloads.broken_update(2, "op", "+inf")
            writer.emit(payload, durable=True)
        writer.emit(payloads.finish(update=UPDATES))
    assert writer.events_lost == 0, writer.last_error
    return run


def of(events, kind):
    return [event.payload for event in events if isinstance(event.payload, kind)]


def test_old_steps_go_and_all_else_stays(thinned):
    size = (thinned / "run.sqlite").stat().st_size
    assert size < 1.3 * LIMIT
    events = RunReader(thinned).read(0, 100_000)
    assert len(of(events, PPOUpdatePayload)) == UPDATES
    assert len(of(events, EpisodesCompleted)) == UPDATES
    steps = of(events, StepCompleted)
    assert 150 < len(steps) < UPDATES * STEPS / 2
    assert steps[-1].step == STEPS
    assert RunReader(thinned).thinned().removed == UPDATES * STEPS - len(steps)


def test_nothing_removed_on_purpose_is_damage(thinned):
    for brief in (False, True):
        frame = RunFollower(thinned, brief=brief).catch_up()
        assert (frame.completeness.unreadable, frame.doubt.lights) == (None, None)
        assert frame.snapshot.tamiyo.head_inf_latch["op"]
        assert frame.snapshot.run.update == UPDATES
        assert len(frame.snapshot.training.entropy_history) > 0
    past = read_view(thinned, time.time(), at=2)
    assert past.doubt.lights is None
    assert past.snapshot.tamiyo.head_inf_latch["op"]
    assert past.snapshot.run.update == 2
    assert not any(read_view(thinned, time.time(), at=1).snapshot.tamiyo.head_inf_latch.values())


def test_an_update_that_is_missing_among_the_old_events_is_still_noticed(thinned):
    with sqlite3.connect(thinned / "run.sqlite") as connection:
        connection.execute("DELETE FROM events WHERE kind = 'ppo_update' AND update_index = 5")
    connection.close()
    assert "missing among the old ones" in RunFollower(thinned).catch_up().doubt.lights


def test_a_thinned_store_is_resumed_and_goes_on_growing_by_id(thinned, payloads):
    last = RunReader(thinned).last_id()
    with RunWriter(thinned, limit_bytes=LIMIT) as writer:
        writer.emit(payloads.start(resumed_from_update=UPDATES))
        writer.emit(payloads.update(UPDATES + 1))
        writer.emit(payloads.finish(update=UPDATES + 1))
    assert RunReader(thinned).last_id() == last + 3
    assert RunFollower(thinned).catch_up().doubt.lights is None


def test_without_a_limit_nothing_is_removed(run, payloads, monkeypatch):
    monkeypatch.setattr("esper.karn.store.writing.store_connection._NEVER_THINNED", 1)
    with RunWriter(run) as writer:
        for step in range(1, 50):
            writer.emit(payloads.step(step))
    assert len(RunReader(run).read(0, 100)) == 49

"""Completeness: one doubt, from the fault that hides most to the one that hides least."""

import sqlite3
from contextlib import closing

import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.reading.completeness import Completeness
from esper.karn.store.run_store import RunWriter


@pytest.mark.parametrize(
    ("completeness", "doubt"),
    [
        (Completeness(), None),
        (Completeness(gap="the store has no events"), "the store has no events"),
        (Completeness(damaged_events=1, gap="old"), "1 event is damaged"),
        (Completeness(damaged_events=3), "3 events are damaged"),
        (Completeness("it cannot be read", 3, "old"), "it cannot be read"),
    ],
)
def test_the_doubt_is_the_worst_fault(completeness, doubt):
    assert completeness.doubt == doubt


def test_a_follower_returns_the_completeness_of_what_it_read(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
        writer.emit(payloads.finish(update=1))
    assert RunFollower(run).catch_up().completeness == Completeness()
    with closing(sqlite3.connect(run / "run.sqlite")) as store:
        store.execute("UPDATE events SET payload = x'ab' WHERE kind = 'ppo_update'")
        store.commit()
    assert RunFollower(run).catch_up().completeness == Completeness(damaged_events=1)
    (run / "run.sqlite").write_bytes(b"not a database")
    assert "is not a run store" in RunFollower(run).catch_up().completeness.unreadable

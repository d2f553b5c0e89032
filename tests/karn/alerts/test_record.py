"""The alert record: claims, deliveries, and processes killed in between."""

import os

import pytest

from esper.karn.alerts.alert_types import Alert
from esper.karn.alerts.record import AlertRecord, Owner, this_process

KILLED = Owner(
    pid=4_000_001,
    start_time=1.0,
    machine=this_process().machine,
    pid_namespace=this_process().pid_namespace,
)


def alert(key, **more):
    return Alert(key=key, kind="light", run="r", path="/r", sentence="s", **more)


@pytest.fixture
def record(tmp_path):
    return AlertRecord(tmp_path / "alerts.jsonl")


def claimed(record, message, keys, sinks=("a", "b"), owner=None, past=False):
    alerts = [alert(key, past=past) for key in keys]
    found = record.claim(message, alerts, sinks, owner or this_process(), 10.0)
    return {one.key: owed for one, owed in found}


def test_an_alert_is_claimed_once_for_each_sink(record):
    assert claimed(record, "m1", ["x", "y"]) == {"x": ("a", "b"), "y": ("a", "b")}
    assert claimed(record, "m2", ["x", "z"]) == {"z": ("a", "b")}
    assert claimed(record, "m3", ["x"], sinks=("a", "c")) == {"x": ("c",)}


def test_past_alerts_that_any_sink_received_are_not_sent_to_a_new_sink(record):
    claimed(record, "m1", ["x"])
    assert claimed(record, "m2", ["x", "y"], sinks=("c",), past=True) == {"y": ("c",)}


def test_claims_of_a_killed_process_are_taken_over_once_with_the_same_message_id(record):
    claimed(record, "m1", ["x", "y"], owner=KILLED)
    record.delivered("m1", "a", 11.0)

    (entry,) = record.take_over(("a", "b"), this_process(), 12.0)
    assert (entry.message, entry.sink) == ("m1", "b")
    assert [one.key for one in entry.alerts] == ["x", "y"]
    assert record.take_over(("a", "b"), this_process(), 12.0) == []
    record.delivered("m1", "b", 13.0)
    assert record.read().undelivered == ()


def test_a_running_process_keeps_its_claims(record):
    other = this_process()
    claimed(record, "m1", ["x"], owner=other)
    me = Owner(pid=1, start_time=other.start_time, machine=other.machine)
    assert record.take_over(("a",), Owner(**{**_fields(other), "pid": 1}), 12.0) == []
    # A process on another machine cannot be checked; its claims count for two minutes.
    assert record.take_over(("a",), Owner(**{**_fields(me), "machine": "far"}), 100.0) == []
    assert record.take_over(("a",), Owner(**{**_fields(me), "machine": "far"}), 131.0) != []


def _fields(owner):
    return {name: getattr(owner, name) for name in owner.__struct_fields__}


def test_a_truncated_line_does_not_affect_the_other_lines(record, tmp_path):
    claimed(record, "m1", ["x"])
    with (tmp_path / "alerts.jsonl").open("ab") as file:
        file.write(b'{"record":"claimed","ti')
    assert claimed(record, "m2", ["x", "y"]) == {"y": ("a", "b")}
    assert set(record.read().alerts) == {"x", "y"}


def test_nothing_is_written_if_nothing_is_new(record, tmp_path):
    claimed(record, "m1", ["x"])
    size = os.path.getsize(tmp_path / "alerts.jsonl")
    claimed(record, "m2", ["x"])
    record.take_over(("a", "b"), this_process(), 12.0)
    assert os.path.getsize(tmp_path / "alerts.jsonl") == size

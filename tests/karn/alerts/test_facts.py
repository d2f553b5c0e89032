"""Alerts derived from the state of a run."""

import os
import time

import pytest

from esper.karn.alerts.facts import RunView, alerts_of, failure_of
from esper.karn.alerts.polling import UpdateClock
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunWriter
from esper.leyline.telemetry import IncidentOrigin, IncidentRecorded, InterventionTaken


@pytest.fixture
def view_of(run):
    """A function that returns the view of the run."""

    def viewed(acknowledged=(), still=0.0, earlier=None, now=None):
        frame = RunFollower(run, brief=True).catch_up()
        now = time.time() if now is None else now
        return RunView(run, frame, now, frozenset(acknowledged), still, 900.0, earlier or {})

    return viewed


@pytest.fixture
def alerts_by_key(view_of):
    return lambda **given: {alert.key: alert for alert in alerts_of(view_of(**given))}


def test_a_light_alert_has_quantity_update_and_first_operation(run, payloads, alerts_by_key):
    origin = IncidentOrigin(
        operation="aten.exp.default", phase="forward", cause="overflow", file="net.py", line=7
    )
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
        writer.emit(IncidentRecorded(update=2, number=1, path="", size=0, origin=origin))
        writer.emit(payloads.broken_update(2, "op", "+inf"), durable=True)
        light = alerts_by_key()["light:op:inf"]

    assert (light.kind, light.head, light.light, light.quantity) == ("light", "op", "inf", "logits")
    assert (light.update, light.incident, light.operation) == (2, 1, "aten.exp.default")
    assert light.sentence == "op went Inf in logits, update 2"
    assert light.origin == "began in exp, forward pass, at net.py:7: overflow"
    assert light.time == pytest.approx(time.time(), abs=60)
    assert "incidents" in light.command


def test_an_acknowledged_light_causes_no_alert(finished_run, alerts_by_key):
    assert "light:op:inf" in alerts_by_key()
    assert "light:op:inf" not in alerts_by_key(acknowledged=[("op", "inf")])


def test_a_fault_after_a_drill_causes_a_new_alert(run, payloads, alerts_by_key):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        planted = payloads.sighting(head="op", kind="nan", planted=True)
        writer.emit(payloads.update(1, head_nonfinite=[planted]), durable=True)
        drill = alerts_by_key()
        genuine = payloads.sighting(head="op", kind="nan")
        writer.emit(payloads.update(2, head_nonfinite=[genuine]), durable=True)
        fault = alerts_by_key()

    assert drill["light:op:nan:drill"].planted
    assert "light:op:nan" not in drill
    assert not fault["light:op:nan"].planted


def test_escalation_and_halt_say_why(run, payloads, alerts_by_key):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update, action in enumerate(("repeat", "skip", "rollback", "halt"), start=1):
            writer.emit(InterventionTaken(update=update, action=action, cause="x", reason="y"))
        writer.emit(payloads.finish(update=4, status="halted", reason="op NaN in logits"))
    found = alerts_by_key()

    assert set(found) == {"escalation:skip", "escalation:rollback", "halt:1"}
    assert found["escalation:rollback"].sentence == "update 3 rolled back: x (y)"
    assert "op NaN in logits" in found["halt:1"].sentence


def test_ends_belong_to_the_process_that_ended(run, payloads, alerts_by_key):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.finish(update=0, status="failed", reason="out of memory"))
    (failed,) = alerts_by_key().values()
    assert (failed.kind, failed.status) == ("died", "FAILED")
    assert failed.key.startswith(f"died:{os.getpid()}@")
    assert failed.sentence == "ended by an error: out of memory (update 0)"
    words, _, second = failed.key.rpartition("@")
    near = f"{words}@{int(second) + 1}"  # the clock was adjusted since then
    assert set(alerts_by_key(earlier={near: failed})) == {near}

    with RunWriter(run) as writer:
        writer.emit(payloads.start(resumed_from_update=0))
        writer.emit(payloads.update(1))
        writer.emit(payloads.finish(update=1))
    (finished,) = alerts_by_key().values()
    assert finished.key == failed.key.replace("died", "finished")
    assert finished.sentence.startswith("finished after 1 update")


def test_a_stall_alert_names_its_update_and_the_next_update_resolves_it(
    run, payloads, alerts_by_key
):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1), durable=True)
        assert alerts_by_key(still=899.0) == {}
        (stall,) = alerts_by_key(still=900.0).values()
        assert (stall.kind, stall.update, stall.resolved) == ("stalled", 1, False)
        assert stall.sentence.startswith("no update for 15 min since update 1")
        assert set(alerts_by_key(still=950.0, earlier={stall.key: stall})) == {stall.key}

        writer.emit(payloads.update(2), durable=True)
        (over,) = alerts_by_key(earlier={stall.key: stall}).values()
    assert (over.key, over.resolved) == (f"{stall.key}:over", True)
    assert over.sentence == "no longer stalled: update 2 (stalled at update 1)"


def test_lost_events_are_trouble(run, payloads, alerts_by_key):
    with RunWriter(run) as writer:
        writer.emit(payloads.start(), durable=True)
    (run / "run.sqlite").write_bytes((run / "run.sqlite").read_bytes()[:100])
    (trouble,) = alerts_by_key().values()

    assert (trouble.key, trouble.kind) == ("trouble:unreadable", "trouble")
    assert "damaged" in trouble.sentence


def test_a_process_that_was_stopped_is_not_trouble(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1), durable=True)
        later = time.time() + 60
        follower = RunFollower(run, brief=True)
        while (frame := follower.poll(later)).is_behind:
            pass
    assert frame.status.kind is StatusKind.STALE
    assert alerts_of(RunView(run, frame, later, frozenset(), 60.0, 900.0, {})) == []


def test_an_active_run_fails_while_lit_or_stalled_and_a_dead_one_for_an_hour(
    run, payloads, view_of
):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1), durable=True)
        assert failure_of(view_of()) is None
        assert "no update for 20 min" in failure_of(view_of(still=1200.0))
        writer.emit(payloads.broken_update(2, "op", "+inf"), durable=True)
        assert failure_of(view_of()).endswith("1 light on (op Inf)")
        assert failure_of(view_of(acknowledged=[("op", "inf")])) is None
        writer.emit(payloads.finish(update=2, status="halted"))
    assert "halted by non-finite values" in failure_of(view_of())
    assert failure_of(view_of(now=time.time() + 3601)) is None


def test_the_clock_of_updates_starts_at_the_store_and_again_with_each_process():
    clock = UpdateClock()
    assert clock.note("a", 1, 50.0, ticks=1000.0) == 50.0
    assert clock.note("a", 1, 0.0, ticks=1010.0) == 60.0
    assert clock.note("a", 2, 0.0, ticks=1020.0) == 0.0
    assert clock.note("b", 2, 0.0, ticks=1030.0) == 0.0

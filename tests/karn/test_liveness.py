"""A run's status: from its last event, its process and its heartbeat; never from silence alone."""

import math
import os
import subprocess
import sys

import msgspec
import pytest

from esper.karn.store.liveness import Pulse, StatusKind, process_start_time, run_status
from esper.leyline.telemetry import Heartbeat

HERE = "this-machine"
BEAT = Heartbeat(pid=123, process_start_time=1_000.0, machine=HERE)


def status(*, phase="training", reason="", beat=BEAT, age=1.0, started=1_000.0, machine=HERE):
    return run_status(
        phase=phase,
        reason=reason,
        heartbeat=beat,
        age=None if beat is None else age,
        machine=machine,
        start_time_of=lambda pid: started if pid == 123 else None,
    )


def test_a_beating_heart_in_its_process_is_live():
    found = status()

    assert found.kind is StatusKind.LIVE
    assert found.seconds == 1.0
    assert not found.is_over


def test_a_beating_heart_without_an_answer_from_its_hosts_is_stalled():
    sentence = "process 9, which holds hosts, did not answer for 21 s"
    found = status(phase="stalled", reason=sentence)
    assert (found.kind, found.sentence) == (StatusKind.STUCK, sentence)
    assert not found.is_over
    assert status(phase="stalled", reason=sentence, age=42.0).kind is StatusKind.STALE
    assert status(phase="stalled", reason=sentence, started=None).kind is StatusKind.DEAD


def test_a_process_that_is_gone_is_dead_at_once():
    found = status(started=None)

    assert found.kind is StatusKind.DEAD
    assert "123" in found.sentence
    assert found.is_over


def test_another_process_of_the_same_id_is_not_the_run():
    assert status(started=4_000.0, age=60.0).kind is StatusKind.DEAD


def test_setting_the_clock_does_not_kill_a_run():
    # It moves the start time that the system reports.
    assert status(started=4_000.0, age=1.0).kind is StatusKind.LIVE


@pytest.mark.parametrize(("age", "kind"), [(1.0, "LIVE"), (42.0, "STALE")])
def test_a_process_of_another_container_is_judged_by_its_heart_alone(age, kind):
    beat = msgspec.structs.replace(BEAT, pid_namespace="pid:[1]")
    found = run_status(
        phase="training",
        reason="",
        heartbeat=beat,
        age=age,
        machine=HERE,
        namespace="pid:[2]",
        start_time_of=lambda pid: None,
    )
    assert found.kind == kind


def test_a_silent_process_is_stale_and_not_dead():
    found = status(age=42.0)

    assert found.kind is StatusKind.STALE
    assert found.seconds == 42.0
    assert "42 s" in found.sentence


def test_a_process_that_cannot_be_looked_into_is_taken_for_the_run():
    assert status(started=math.nan, age=1.0).kind is StatusKind.LIVE
    assert status(started=math.nan, age=42.0).kind is StatusKind.STALE


def test_the_first_beat_is_as_old_as_its_time_says():
    assert Pulse().age(None, 5_000.0, 70.0) is None
    assert Pulse().age(4_900.0, 5_000.0, 70.0) == 100.0
    assert Pulse().age(5_100.0, 5_000.0, 70.0) == 0.0  # the clock was set back meanwhile


@pytest.mark.parametrize("jump", [0.0, 3_600.0, -3_600.0, 1e9, -1e9])
def test_a_clock_that_is_set_makes_no_beating_heart_silent(jump):
    pulse = Pulse()
    assert pulse.age(4_999.0, 5_000.0, 70.0) == 1.0
    assert pulse.age(4_999.0, 5_000.5 + jump, 70.5) == 1.5
    assert pulse.age(5_001.0 + jump, 5_001.1 + jump, 71.0) == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("ahead", [3_600.0, -3_600.0])
def test_a_missing_heartbeat_is_detected_with_any_clock(ahead):
    pulse = Pulse()
    pulse.age(5_000.0 + ahead, 5_000.0, 70.0)
    assert pulse.age(5_002.0 + ahead, 5_002.1, 72.0) <= 2.0
    assert pulse.age(5_002.0 + ahead, 5_052.1, 122.0) == pytest.approx(50.0, abs=2.0)


def test_a_process_of_another_machine_is_judged_by_its_heart_alone():
    assert status(machine="another", started=None, age=1.0).kind is StatusKind.LIVE
    assert status(machine="another", started=None, age=42.0).kind is StatusKind.STALE


@pytest.mark.parametrize("kind", ["FINISHED", "STOPPED", "HALTED", "FAILED"])
def test_the_recorded_ending_overrides_the_state_of_the_process(kind):
    for started in (1_000.0, None):
        found = status(phase=kind.lower(), reason="because", started=started)
        assert found.kind is StatusKind(kind)
        assert found.sentence.endswith(": because")
        assert found.is_over


def test_a_run_without_events_is_waiting():
    assert status(phase="waiting", beat=None).kind is StatusKind.WAITING


def test_a_run_before_its_first_update_is_starting_and_shows_what_it_loads():
    assert status(phase="waiting").kind is StatusKind.STARTING
    found = status(phase="starting", reason="loading PyTorch")
    assert found.kind is StatusKind.STARTING
    assert found.sentence == "process 123 is starting: loading PyTorch"
    assert not found.is_over


def test_a_resumed_run_is_starting_until_its_first_event():
    def resumed(*, finished_at, age=1.0):
        return run_status(
            phase="stopped",
            reason="asked to",
            heartbeat=BEAT,
            age=age,
            finished_at=finished_at,
            machine=HERE,
            start_time_of=lambda pid: 1_000.0,
        ).kind

    assert resumed(finished_at=900.0) is StatusKind.STARTING
    assert resumed(finished_at=4_998.0) is StatusKind.STOPPED
    assert resumed(finished_at=900.0, age=3_800.0) is StatusKind.STOPPED


def test_a_run_that_died_before_its_first_event_is_dead():
    assert status(phase="waiting", started=None).kind is StatusKind.DEAD


def test_processes_of_this_machine_are_looked_up():
    ours = process_start_time(os.getpid())
    assert ours is not None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = process_start_time(child.pid)
        assert started is not None
        assert started >= ours
    finally:
        child.kill()
    # Not waited for yet: a zombie is as dead as one that is gone.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start_time(child.pid) is None
    child.communicate()
    assert process_start_time(child.pid) is None

"""A long observer: hours of events go by, and the cockpit's memory stays what it was.

Its processor time is measured by `benchmarks/sanctum_cpu_share.py`.
"""

import gc
import time
from dataclasses import replace

import msgspec
import psutil
import pytest
from synthetic_run import STEPS, payloads_of_a_step, payloads_of_an_end, start_of

from esper.karn.sanctum.cockpit.capture import render_once
from esper.karn.sanctum.cockpit.observer import RunObserver
from esper.karn.sanctum.schema import MachineState
from esper.karn.store.run_store import RunWriter
from esper.leyline.telemetry import NonfiniteSighting, PPOUpdatePayload

HOSTS = 16
#: Of a real run with as many hosts.
SECONDS_PER_UPDATE = 2.4
#: That memory may grow by once everything has been shown for a while; a leak of a few bytes an
#: event would be more, and so would histories without bounds.
GROWTH_BYTES = 12e6


def payloads_of_an_hour(updates):
    """Yield the payloads of each update; in every fiftieth update a head is broken."""
    for update in range(1, updates + 1):
        payloads = [
            payload
            for step in range(1, STEPS + 1)
            for payload in payloads_of_a_step(update, step, HOSTS)
        ]
        for payload in payloads_of_an_end(update, HOSTS):
            if isinstance(payload, PPOUpdatePayload) and update % 50 == 0:
                seen = NonfiniteSighting(
                    head="op", quantity="ratio", kind="nan", count=1, epoch=1, minibatch=1
                )
                payload = msgspec.structs.replace(
                    payload, head_nan_detected={"op": True}, head_nonfinite=[seen]
                )
            payloads.append(payload)
        yield payloads


def of_the_events(snapshot):
    """Return a snapshot without the figures of the heartbeat, whose times vary."""
    run = replace(snapshot.run, pid=None, process_start_time=None)
    return replace(snapshot, run=run, machine=MachineState())


def soak(run, updates):
    """Write a run and read it after every update; return the memory during this."""
    observer = RunObserver(run, run.parent)
    process = psutil.Process()
    memory = []
    with RunWriter(run) as writer:
        writer.emit(start_of(HOSTS))
        for update, payloads in enumerate(payloads_of_an_hour(updates), start=1):
            for payload in payloads:
                writer.emit(payload)
            assert writer.flush()
            while (view := observer(time.time())).is_behind:
                pass
            if update % max(1, updates // 20) == 0:
                assert "●" in render_once(view, 120).plain
                gc.collect()
                memory.append(process.memory_info().rss)
        assert writer.events_lost == 0
        while (view := observer(time.time())).is_behind:
            pass
    return observer, memory


def check(run, updates):
    observer, memory = soak(run, updates)
    last = observer(time.time())
    fresh = RunObserver(run, run.parent)
    while (attached := fresh(time.time())).is_behind:
        pass

    assert last.snapshot.run.update == updates
    assert of_the_events(last.snapshot) == of_the_events(attached.snapshot)
    assert last.snapshot.run.damaged_events == last.snapshot.run.unknown_events == 0
    assert memory[-1] - memory[len(memory) // 3] < GROWTH_BYTES, memory
    for update in (1, updates // 2, updates):
        for one in (observer, fresh):
            one.go_to(update)
        shown, again = observer(1.0), fresh(1.0)
        assert shown.snapshot.run.update == update
        assert of_the_events(shown.snapshot) == of_the_events(again.snapshot)


def test_minutes_of_a_busy_run_leave_the_cockpit_as_it_was(run):
    check(run, 50)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_hour_of_a_busy_run_leaves_the_cockpit_as_it_was(run):
    check(run, int(3_600 / SECONDS_PER_UPDATE))

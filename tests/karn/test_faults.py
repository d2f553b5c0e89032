"""Every call of the writer and of the readers fails once: no announced light is ever dark."""

import io
import time

import pytest
from faults import Faults, injected
from rich.console import Console

from esper.commands.folder.runs import print_runs
from esper.commands.health import print_health
from esper.commands.sanctum import print_once
from esper.karn.sanctum.cockpit.capture import export_frame
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, RunStoreError, RunWriter, create_run
from esper.leyline.telemetry import Notice

#: Calls that one subject may make: far more than any does, so that a test ends.
MANY = 2_000


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Have the writer try again at once."""
    monkeypatch.setattr("esper.karn.store.writing.run_writer._RETRY_SECONDS", (0.002, 0.01))
    monkeypatch.setattr("esper.karn.store.writing.run_writer._FINISH_SECONDS", 0.05)


def quiet():
    return Console(file=io.StringIO(), width=100)


def health_of(run):
    """Return the exit code of `esper health`."""
    try:
        return print_health(run.parent, str(run), console=quiet())
    except RunStoreError:
        return 2


def written(run, payloads, faults):
    """Write a short run that is resumed; return the reports and how many events were lost."""
    reports, lost = [], 0
    with injected(faults):
        for resumed in (None, 2):
            with RunWriter(run, reports.append) as writer:
                writer.emit(payloads.start(resumed_from_update=resumed), durable=True)
                for update in (1, 2) if resumed is None else (3, 4):
                    writer.emit(payloads.step(update=update))
                    payload = payloads.update(update)
                    if update == 2:
                        payload = payloads.broken_update(2, "op", "+inf")
                    writer.emit(payload, durable=True)
                writer.emit(payloads.finish(update=4, episodes_done=8), durable=True)
            lost += writer.events_lost
    return reports, lost


def is_lit_or_unknown(run):
    """Return whether a later reading of the run does not show its light as off."""
    frame = RunFollower(run).poll(time.time() + 60)
    return frame.snapshot.tamiyo.head_inf_latch["op"] or frame.doubt.lights is not None


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "after it was done"])
def test_no_light_is_lost_whichever_call_of_the_writer_fails(tmp_path, payloads, late, lasting):
    for number in range(1, MANY):
        run = create_run(tmp_path / str(number), "r")
        faults = Faults(run, number, lasting=lasting, late=late)
        reports, lost = written(run, payloads, faults)
        if not faults.failed:
            break
        where = f"call {number}: {faults.failed[0]}"
        # Where nothing at all could be written, there is no store; and this process still lives,
        # so its run counts as live for some seconds.
        has_store = RunFollower(run).catch_up().snapshot.last_event_id
        assert is_lit_or_unknown(run) or not has_store, where
        assert lasting or health_of(run) in (1, 2), where
        if lost:
            assert any("not stored" in line for line in reports), where
        elif not lasting:
            assert health_of(run) == 1, where
            events = RunReader(run).read(0, 100)
            kinds = [type(one.payload).__name__ for one in events]
            assert kinds.count("PPOUpdatePayload") == 4, where
            assert kinds.count("StepCompleted") == 4, where
    assert number > 40, "the layer saw no calls"


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("is_live", [False, True], ids=["finished", "live"])
def test_a_light_is_lit_or_unknown_if_a_call_of_a_reader_fails(run, payloads, is_live, lasting):
    writer = RunWriter(run)
    for payload in (payloads.start(), payloads.broken_update(1, "op", "+inf")):
        writer.emit(payload, durable=True)
    if not is_live:
        writer.emit(payloads.finish(update=1))
        writer.close()
    looks = {
        "health": lambda: health_of(run),
        "runs": lambda: print_runs(run.parent, console=quiet()),
        "once": lambda: print_once(run, console=quiet()),
        "follower": lambda: RunFollower(run).catch_up(),
    }
    for name, look in looks.items():
        for number in range(1, MANY):
            with injected(Faults(run, number, lasting=lasting)) as faults:
                found = look()
            if not faults.failed:
                break
            where = f"{name}, call {number}: {faults.failed[0]}"
            if name == "health":
                assert found in (1, 2), where
            elif name == "runs":
                assert found == 0, where
            else:
                is_lit = found.snapshot.tamiyo.head_inf_latch["op"]
                assert is_lit or found.doubt.lights is not None, where
        assert number > 5, name
    writer.close()


def test_an_open_cockpit_keeps_its_light_whichever_call_fails(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start(), durable=True)
        writer.emit(payloads.broken_update(1, "op", "+inf"), durable=True)
        for number in range(1, MANY):
            follower = RunFollower(run)
            assert follower.catch_up().snapshot.tamiyo.head_inf_latch["op"]
            writer.emit(Notice(level="info", text=str(number)), durable=True)
            with injected(Faults(run, number)) as faults:
                frame = follower.catch_up()
            assert frame.snapshot.tamiyo.head_inf_latch["op"], faults.failed
            if not faults.failed:
                break
        assert number > 5


def test_an_export_of_a_store_that_fails_is_a_picture_with_the_light_lit_or_unknown(
    finished_run, tmp_path
):
    for number in (1, 3, 6, 10, 15, 21):
        with injected(Faults(finished_run, number, lasting=True)) as faults:
            view = export_frame(finished_run, tmp_path / "picture.txt")
        assert faults.failed
        assert view.snapshot.tamiyo.head_inf_latch["op"] or view.doubt.lights is not None

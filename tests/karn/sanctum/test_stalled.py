"""A process of hosts that does not answer is named; a resume counts from its checkpoint."""

import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunWriter
from esper.leyline.telemetry import HostsStalled

SILENT = HostsStalled(update=2, pid=77, seconds=20.6)


def test_silence_of_hosts_is_a_status_until_they_answer(run, payloads):
    with RunWriter(run) as writer:
        follower = RunFollower(run)
        for payload in (payloads.start(), payloads.update(1), payloads.step(update=2)):
            writer.emit(payload, durable=True)
        assert follower.catch_up().status.kind is StatusKind.LIVE
        writer.emit(SILENT, durable=True)
        status = follower.catch_up().status
        assert status.kind is StatusKind.STUCK
        assert status.sentence == "process 77, which holds hosts, did not answer for 21 s"
        writer.emit(HostsStalled(update=2, pid=77, seconds=41.0, answered=True), durable=True)
        frame = follower.catch_up()
        assert frame.status.kind is StatusKind.LIVE
        assert [(entry.level, entry.text) for entry in frame.snapshot.log[-2:]] == [
            ("error", "STUCK: process 77, which holds hosts, has not answered for 21 s"),
            ("warning", "process 77, which holds hosts, answers again after 41 s"),
        ]


@pytest.mark.parametrize("what", ["step", "update", "start"])
def test_any_event_of_hosts_ends_the_silence(fold, payloads, what):
    then = {"step": payloads.step(), "update": payloads.update(2), "start": payloads.start()}
    assert fold(payloads.start(), SILENT).run.phase == "stalled"
    assert fold(payloads.start(), SILENT, then[what]).run.phase == "training"
    assert fold(payloads.start(), SILENT, payloads.finish("failed")).run.phase == "failed"


@pytest.mark.parametrize(("resumed", "done"), [(None, 0), (1, 2), (2, 4)])
def test_a_resume_counts_the_episodes_of_its_checkpoint(fold, payloads, resumed, done):
    """Otherwise a run killed at 16 episodes and resumed for 10 would show "16 of 10"."""
    before = [payloads.update(number) for number in (1, 2, 3)]
    run = fold(
        payloads.start(episodes=16),
        *before,
        payloads.episodes(4, episodes_done=8),
        payloads.start(episodes=10, resumed_from_update=resumed),
    ).run
    assert (run.update, run.episodes_done, run.episodes) == (resumed or 0, done, 10)

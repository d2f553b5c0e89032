"""Training in one process: exact counts, all events, and faults that do not end it."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from faults import Faults, injected

from esper.growth.environment.divided import DividedHosts
from esper.leyline.files.checkpoint_file import read_summary
from esper.leyline.telemetry import (
    CheckpointWritten,
    EpisodesCompleted,
    HostsStalled,
    IncidentRecorded,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SeedTransitioned,
    StepCompleted,
)
from esper.simic import environment
from esper.simic.agent.ppo import PPOAgent
from esper.simic.config import ConfigError, TrainingConfig
from esper.simic.training import trainer
from esper.simic.training.checkpoint import load_checkpoint
from esper.simic.training.collecting import episode_seeds
from esper.simic.training.process.outputs import GuardedStream
from esper.simic.training.process.stopping import StoppedAtOnce, StopRequest
from esper.simic.training.process.threads import choose_threads
from esper.simic.training.progress import PlainLines

Train = Callable[..., tuple[RunFinished, Any]]
CPU = torch.device("cpu")


def test_exactly_the_requested_episodes_are_run(train: Train) -> None:
    ending, log = train(episodes=5)
    assert (ending.status, ending.update, ending.episodes_done) == ("finished", 3, 5)
    assert [len(batch.score) for batch in log.of(EpisodesCompleted)] == [2, 2, 1]
    assert [batch.first_episode for batch in log.of(EpisodesCompleted)] == [1, 3, 5]
    assert [update.update for update in log.of(PPOUpdatePayload)] == [1, 2, 3]
    assert [len(step.accuracy) for step in log.of(StepCompleted)] == [2, 2, 2, 2, 1, 1]
    assert [step.step for step in log.of(StepCompleted)] == [1, 2] * 3
    first, *_ = (payload for payload in log.payloads if not isinstance(payload, Notice))
    assert isinstance(first, RunStarted)
    assert log.payloads[-1] == ending


def test_reward_terms_add_up_to_the_reward(train: Train) -> None:
    _, log = train(episodes=4, steps=6)
    returns = [0.0, 0.0]
    for step in log.of(StepCompleted)[:6]:
        for host in range(2):
            terms = [term[host] for term in step.reward_terms.values()]
            assert sum(terms) == pytest.approx(step.reward[host], abs=1e-6)
            returns[host] += step.reward[host]
    assert returns == pytest.approx(log.of(EpisodesCompleted)[0].returns)
    assert log.of(SeedTransitioned), "a fresh policy germinates as often as it waits"


def test_a_requested_stop_comes_after_the_update_and_can_be_resumed(
    train: Train, tmp_path: Path
) -> None:
    stop = StopRequest()
    stop.requested = True
    ending, _ = train(stop, episodes=4)
    assert (ending.status, ending.episodes_done) == ("stopped", 0)
    ending, log = train(episodes=4)
    assert ending.status == "finished"
    assert log.of(RunStarted)[0].resumed_from_update is None
    ending, log = train(episodes=6)
    assert log.of(RunStarted)[0].resumed_from_update == 2
    assert [update.update for update in log.of(PPOUpdatePayload)] == [3]


def test_a_stopped_run_loses_nothing_with_rare_checkpoints(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()
    collect = trainer.collect

    def asked_meanwhile(*arguments: Any, **options: Any) -> Any:
        stop.requested = True
        return collect(*arguments, **options)

    monkeypatch.setattr(trainer, "collect", asked_meanwhile)
    ending, log = train(stop, episodes=8, checkpoint_every=100)
    assert (ending.status, ending.update) == ("stopped", 1)
    assert [kept.update for kept in log.of(CheckpointWritten)] == [1]


def test_a_drill_is_planted_once_even_after_a_resume(train: Train) -> None:
    _, log = train(episodes=2, inject=("op:inf@1",))
    assert log.of(PPOUpdatePayload)[0].head_inf_detected["op"]
    _, log = train(episodes=6, inject=("op:inf@1",))
    assert not any(update.head_inf_detected["op"] for update in log.of(PPOUpdatePayload))


def test_a_checkpoint_that_cannot_be_written_does_not_end_training(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    ending, log = train(episodes=4)
    assert ending.status == "finished"
    assert log.of(CheckpointWritten) == []
    assert [notice.level for notice in log.of(Notice)] == ["info", "error", "error"]
    assert "No space left on device" in log.of(Notice)[-1].text


def test_a_fault_ends_the_run_with_its_reason(
    train: Train, event_log: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the host melted")

    monkeypatch.setattr(trainer, "collect", broken)
    log = event_log()
    with pytest.raises(RuntimeError, match="melted"):
        train(log=log, episodes=4)
    (ending,) = log.of(RunFinished)
    assert (ending.status, ending.reason) == ("failed", "RuntimeError: the host melted")


def test_a_dead_worker_fails_the_run_resumably(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = trainer.collect

    def collect_without_the_other_process(hosts: Any, *arguments: Any, **options: Any) -> Any:
        if options["update"] == 2:
            (process,) = hosts._others
            psutil.Process(process.pid).kill()
        return collect(hosts, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "collect", collect_without_the_other_process)
        ending, log = train(envs=16, episodes=48)
    assert (ending.status, ending.update, ending.episodes_done) == ("failed", 1, 16)
    assert "was killed by signal 9; the current batch is lost" in ending.reason
    assert log.payloads[-1] == ending
    ending, log = train(envs=16, episodes=48)
    assert (ending.status, ending.update, ending.episodes_done) == ("finished", 3, 48)


def test_episode_seeds_depend_only_on_run_and_number() -> None:
    assert episode_seeds(7, 1, 6, 1) == episode_seeds(7, 1, 4, 1) + episode_seeds(7, 5, 2, 1)
    assert episode_seeds(7, 1, 4, 1) != episode_seeds(8, 1, 4, 1)


def test_siblings_share_a_seed_and_families_do_not() -> None:
    seeds = episode_seeds(7, 1, 8, 3)
    assert seeds[0] == seeds[1] == seeds[2] != seeds[3] == seeds[4] == seeds[5] != seeds[6]
    assert seeds[6] == seeds[7]
    assert not set(seeds) & set(episode_seeds(7, 9, 8, 3))


def test_cuda_is_refused_where_there_is_none() -> None:
    if torch.cuda.is_available():
        assert environment.resolve_device("cuda").type == "cuda"
    else:
        with pytest.raises(ConfigError, match="torch finds none here"):
            environment.resolve_device("cuda")
        assert environment.resolve_device("auto").type == "cpu"


def test_threads_are_chosen_by_measurement() -> None:
    before = torch.get_num_threads()
    used = []
    try:
        chosen = choose_threads(lambda: used.append(torch.get_num_threads()))
        assert chosen in used
        assert used[0] == 1
        assert torch.get_num_threads() == chosen
    finally:
        torch.set_num_threads(before)


def test_a_first_interrupt_waits_for_the_update_and_a_second_does_not() -> None:
    stop = StopRequest()
    with stop.interruptible():
        stop.handle(signal.SIGINT, None)
    assert (stop.requested, stop.at_once) == (True, False)
    with pytest.raises(StoppedAtOnce), stop.interruptible():
        stop.handle(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGINT, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_at_once_only_ends_interruptible_work(number: int) -> None:
    stop = StopRequest()
    stop.handle(number, None)  # for example while an event is written
    stop.handle(number, None)  # asking again changes nothing
    assert (stop.requested, stop.at_once) == (True, True)
    with pytest.raises(StoppedAtOnce), stop.interruptible():
        raise AssertionError("never reached")


def ask_in_update(
    monkeypatch: pytest.MonkeyPatch, stop: StopRequest, number: int, where: str
) -> None:
    """Have SIGTERM arrive in an update: while hosts make a step, or in the middle of learning."""
    owner, name = {"hosts": (DividedHosts, "step"), "learning": (PPOAgent, "learn")}[where]
    real = getattr(owner, name)

    def asked(it: Any, *arguments: Any) -> Any:
        result = real(it, *arguments)
        calls.append(1)
        if len(calls) == (2 * number if where == "hosts" else number):
            stop.handle(signal.SIGTERM, None)
        return result

    calls: list[int] = []
    monkeypatch.setattr(owner, name, asked)


@pytest.mark.parametrize("where", ["hosts", "learning"])
@pytest.mark.parametrize("checkpoint_every", [1, 100])
def test_stopping_at_once_only_loses_the_current_batch(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    checkpoint_every: int,
) -> None:
    settings = {"episodes": 8, "checkpoint_every": checkpoint_every}
    stop = StopRequest()
    with monkeypatch.context() as patch:
        ask_in_update(patch, stop, 3, where)
        ending, log = train(stop, **settings)
    assert (ending.status, ending.update, ending.episodes_done) == ("stopped", 2, 4)
    assert "the current batch is lost" in ending.reason
    assert log.of(CheckpointWritten)[-1].update == 2
    ending, log = train(**settings)
    assert (ending.status, ending.update) == ("finished", 4)
    assert log.of(RunStarted)[0].resumed_from_update == 2
    stopped = load_checkpoint(tmp_path / "checkpoints" / "update-000004.pt", CPU)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    train(**settings)
    straight = load_checkpoint(tmp_path / "checkpoints" / "update-000004.pt", CPU)
    assert equal(stopped.agent, straight.agent)


def equal(one: Any, other: Any) -> bool:
    """Return whether two states are the same, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def test_stopping_before_training_began_keeps_what_was_done(train: Train) -> None:
    train(episodes=2)
    stop = StopRequest()
    stop.handle(signal.SIGTERM, None)
    ending, log = train(stop, episodes=4)
    assert (ending.status, ending.update, ending.episodes_done) == ("stopped", 1, 2)
    assert ending.reason == "asked to stop before training began; the run can be resumed"
    assert (log.of(RunStarted), log.payloads[-1]) == ([], ending)


def test_a_damaged_checkpoint_is_skipped_reported_and_replaced(
    train: Train, tmp_path: Path
) -> None:
    train(episodes=6)
    newest = tmp_path / "checkpoints" / "update-000003.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 3] ^= 4
    newest.write_bytes(data)
    ending, log = train(episodes=8)
    assert log.of(RunStarted)[0].resumed_from_update == 2
    warnings = [notice.text for notice in log.of(Notice) if notice.level == "warning"]
    assert len(warnings) == 1
    assert "update-000003.pt is damaged" in warnings[0]
    assert warnings[0].endswith("resuming from update 2")
    assert ending.status == "finished"
    assert [update.update for update in log.of(PPOUpdatePayload)] == [3, 4]
    kept = sorted(path.name for path in newest.parent.iterdir())
    assert kept == ["update-000003.pt", "update-000004.pt"]


def test_a_config_that_differs_from_the_checkpoint_is_refused(train: Train) -> None:
    train(episodes=2)
    with pytest.raises(
        ConfigError,
        match=r"steps is 3 in the config of the run and 2 in the checkpoint of update 1",
    ):
        train(episodes=4, steps=3)


def test_each_checkpoint_has_the_latches(train: Train, tmp_path: Path) -> None:
    train(episodes=4, inject=("op:inf@1",))
    latches = read_summary(tmp_path / "checkpoints" / "update-000002.pt").latches
    update, seen = latches[0]
    assert (update, seen.head, seen.quantity, seen.kind) == (1, "op", "logits", "+inf")
    assert {update for update, _ in latches} == {1}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EIO])
def test_a_temporary_disk_failure_loses_no_checkpoint(
    train: Train, event_log: Callable[[], Any], tmp_path: Path, number: int
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "incidents").mkdir()
    faults = [
        Faults(tmp_path / name, 1, lasting=True, error=number)
        for name in ("checkpoints", "incidents")
    ]

    class Mended(event_log):
        def emit(self, payload: Any, *, durable: bool = False) -> None:
            super().emit(payload, durable=durable)
            if isinstance(payload, StepCompleted) and payload.update == 3:
                for each in faults:
                    each.at = 0

    log = Mended()
    drills = ("op:inf@1", "slot:nan@3")
    with injected(faults[0]), injected(faults[1]):
        ending, log = train(log=log, episodes=8, checkpoint_every=100, inject=drills)
    assert all(each.failed for each in faults)
    assert (ending.status, ending.reason) == ("finished", "")
    texts = [notice.text for notice in log.of(Notice)]
    assert not any(text.startswith("no checkpoint of update 3") for text in texts)
    kept, *_ = log.of(IncidentRecorded)
    assert (kept.path, "it could not be written" in kept.reason) == ("", True)
    assert log.of(IncidentRecorded)[1].path == "incidents/0002"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["update-000004.pt"]


def test_checkpoints_that_failed_are_counted_and_tried_again_with_the_next_update(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, count = torch.save, 0

    def failing(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count < 3:  # as torch reports a disk that is full
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        save(*arguments)

    monkeypatch.setattr(torch, "save", failing)
    ending, log = train(episodes=10, checkpoint_every=2)
    assert ending.status == "finished"
    assert [kept.update for kept in log.of(CheckpointWritten)] == [4, 5]
    lines = [(one.level, one.text) for one in log.of(Notice) if "checkpoint" in one.text]
    assert [level for level, _ in lines] == ["error", "error", "warning"]
    assert lines[0][1].startswith("no checkpoint of update 2")
    assert lines[2][1] == "checkpoints are written again; 2 were not"


def test_a_dead_output_does_not_end_training(event_log: Callable[[], Any], tmp_path: Path) -> None:
    master, slave = os.openpty()
    os.close(master)  # the terminal is gone: writing fails with EIO
    lines: list[str] = []
    with open("/dev/full", "w") as full, open(slave, "w") as terminal:
        for stream in (full, terminal):
            config = TrainingConfig(envs=2, steps=2, minibatches=1, episodes=2)
            run = tmp_path / str(stream.fileno())
            run.mkdir()
            progress = PlainLines(
                2, GuardedStream(lambda stream=stream: stream, "it", lines.append)
            )
            ending = trainer.train(config, run, event_log(), progress, StopRequest())
            assert ending.status == "finished"
        with contextlib.suppress(OSError):
            full.close()
        with contextlib.suppress(OSError):
            terminal.close()
    assert [line.split(": ")[0] for line in lines] == ["it cannot be written"] * 2


def test_a_silent_process_of_hosts_is_reported_and_ends_the_run_resumably(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = trainer.collect

    def collect_with_a_stopped_process(hosts: Any, *arguments: Any, **options: Any) -> Any:
        if options["update"] == 2:
            (process,) = hosts._others
            psutil.Process(process.pid).suspend()
            # Only now: a busy machine may be silent for as long.
            patch.setattr("esper.growth.environment.host_process._LOOK", 0.02)
            patch.setattr("esper.growth.environment.host_process.SILENCE", 0.05)
            patch.setattr("esper.growth.environment.host_process.LONGEST_SILENCE", 0.3)
        return collect(hosts, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "collect", collect_with_a_stopped_process)
        ending, log = train(envs=16, episodes=48)
    assert (ending.status, ending.update, ending.episodes_done) == ("failed", 1, 16)
    assert "which held hosts, was silent for" in ending.reason
    silences = log.of(HostsStalled)
    assert [one.answered for one in silences if one.update == 2] == [False]
    assert psutil.Process().children() == []
    monkeypatch.undo()
    ending, log = train(envs=16, episodes=48)
    assert (ending.status, ending.update) == ("finished", 3)

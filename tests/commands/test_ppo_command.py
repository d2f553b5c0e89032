"""`esper ppo`: where settings come from, exit codes, and the process behind Sanctum."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunReader, find_run
from esper.leyline.telemetry import RunFinished, RunStarted
from esper.services.launch.training_process import TrainingProcess
from esper.services.run_lock import HeldRun
from esper.simic.config import ConfigError

Run = Callable[..., tuple[int, str, str]]


def test_settings_come_from_defaults_then_the_file_then_options(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("episodes = 3\nsteps = 2\nminibatches = 1\n")
    arguments = ("--config", "run.toml", "--episodes", "1", "--name", "my run")
    code, output, errors = run("ppo", *arguments)
    assert code == 0, errors
    directory = find_run(tmp_path / "runs")
    for place in (output, (directory / "console.log").read_text()):  # for a user who has detached
        assert place.splitlines()[-1].endswith(f"esper ppo --resume {directory.name} --episodes 2")
    assert directory.name.endswith("-my-run")
    payloads = [event.payload for event in RunReader(directory).read(0, 1000)]
    (start,) = [payload for payload in payloads if isinstance(payload, RunStarted)]
    assert (start.episodes, start.steps) == (1, 2)
    assert start.config["minibatches"] == 1
    assert start.config["ppo_epochs"] == 6


def test_the_environment_variable_names_the_folder_of_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "elsewhere"))
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    assert run("runs")[0] == 0


def test_a_run_that_halted_in_its_last_update_is_not_called_finished(run: Run) -> None:
    options = ("--episodes", "1", "--steps", "2", "--inject", "op:inf@1")
    code, output, _ = run("ppo", *options, "--on-nonfinite", "halt")
    assert code == 3
    assert output.rstrip().endswith("--episodes 2")  # how to continue is the last line
    code, _, errors = run("ppo", "--resume", "2")
    assert (code, errors.count("\n")) == (2, 1)
    assert "has trained 1 episode already; give a larger --episodes" in errors
    assert run("ppo", "--resume", "2", "--episodes", "2")[0] == 0
    code, _, errors = run("ppo", "--resume", "2", "--episodes", "1")
    assert code == 2
    assert "has trained 2 episodes already; give a larger --episodes" in errors


def test_threads_can_be_chosen_for_the_shortest_episode(run: Run) -> None:
    code, output, errors = run("ppo", "--episodes", "1", "--steps", "1", "--threads", "0")
    assert (code, errors) == (0, "")
    assert "FINISHED" in output


def test_training_continues_when_standard_output_is_full(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, errors = run("ppo", "--episodes", "2", "--envs", "1", "--steps", "2")
        monkeypatch.undo()
    assert code == 0
    assert errors.count("standard output cannot be written: No space left on device") == 1
    directory = find_run(tmp_path / "runs")
    frame = RunFollower(directory).catch_up()
    assert frame.status.kind == "FINISHED"
    assert any("standard output cannot be written" in entry.text for entry in frame.snapshot.log)
    assert "update 2  episodes 2" in (directory / "console.log").read_text()


def test_a_stop_at_once_ends_the_process_without_unloading_torch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object) -> RunFinished:
        os.kill(os.getpid(), signal.SIGTERM)
        return RunFinished(status="stopped", update=0, episodes_done=0, reason="asked to stop")

    def end(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("esper.simic.training.trainer.train", train)
    monkeypatch.setattr(os, "_exit", end)
    code, output, _ = run("ppo", "--episodes", "2", "--envs", "1", "--steps", "2")
    assert (code, "next:" in output) == (130, False)
    directory = find_run(tmp_path / "runs")
    with HeldRun(directory):  # the lock was released
        assert list(directory.glob("run.sqlite*")) == [directory / "run.sqlite"]


def test_the_process_behind_sanctum_takes_over_the_lock(trained: Path) -> None:
    child = TrainingProcess(HeldRun(trained))
    try:
        # There is no moment in which another process could come between.
        with pytest.raises(ConfigError, match="stop that first"):
            HeldRun(trained)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    HeldRun(trained).close()

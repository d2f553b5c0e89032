"""TELE-303 from the PPO update to the light on the screen, in real processes."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.karn.store.run_directory import LOCK_NAME
from esper.leyline.heads import HEAD_NAMES
from esper.simic.training.checkpoint import load_checkpoint

Esper = Callable[..., subprocess.CompletedProcess[str]]
OpenTerminal = Callable[..., Any]
ReadLights = Callable[[Sequence[str], str], set[str] | None]


def health_of(esper: Esper, *arguments: str) -> tuple[int, dict[str, Any]]:
    result = esper("health", "--json", *arguments)
    return result.returncode, json.loads(result.stdout)


def lit(latch: dict[str, bool]) -> set[str]:
    assert set(latch) == set(HEAD_NAMES)
    return {head for head, on in latch.items() if on}


def test_a_drill_in_a_terminal_lights_its_head_on_the_screen(
    open_terminal: OpenTerminal,
    read_lights: ReadLights,
    esper: Esper,
    small: tuple[str, ...],
    tmp_path: Path,
) -> None:
    terminal = open_terminal(
        "ppo",
        "--episodes",
        "30",
        *small,
        "--inject",
        "op:inf@10",
        "--run-dir",
        str(tmp_path / "runs"),
    )
    terminal.wait_for(lambda lines: read_lights(lines, "Inf") == set())
    terminal.wait_for(lambda lines: read_lights(lines, "Inf") == {"Op"})
    screen = terminal.wait_for(lambda lines: any("FINISHED" in line for line in lines))
    assert read_lights(screen, "Inf") == {"Op"}
    assert read_lights(screen, "NaN") <= {"Op"}  # softmax turns an Inf into a NaN, there alone
    terminal.press("q")
    assert terminal.wait_for_exit() == 0

    code, health = health_of(esper)
    assert code == 1
    assert health["status"] == "FINISHED"
    assert lit(health["head_inf_latch"]) == {"op"}
    first = health["first"][0]
    assert (first["head"], first["kind"], first["quantity"]) == ("op", "+inf", "logits")
    assert (first["update"], first["phase"], first["reproduced"]) == (10, "update", True)


def test_a_total_failure_lights_its_head_like_any_other(
    esper: Esper, small: tuple[str, ...]
) -> None:
    options = ("--ppo-epochs", "1", "--minibatches", "1", "--inject", "style.log_prob:-inf@2")
    result = esper("ppo", "--episodes", "6", *small, *options)
    assert result.returncode == 0, result.stderr
    code, health = health_of(esper)
    assert code == 1
    assert lit(health["head_inf_latch"]) == {"style"}
    assert lit(health["head_nan_latch"]) == set()
    assert health["first"][0]["kind"] == "-inf"
    assert health_of(esper, "--fail-on", "nan")[0] == 0


def test_a_clean_run_is_healthy(esper: Esper, small: tuple[str, ...]) -> None:
    assert esper("ppo", "--episodes", "2", *small).returncode == 0
    code, health = health_of(esper)
    assert code == 0
    assert lit(health["head_inf_latch"]) == lit(health["head_nan_latch"]) == set()
    assert health["first"] == []


def test_a_run_killed_right_after_the_latch_keeps_its_light_and_resumes(
    esper: Esper, read_lights: ReadLights, small: tuple[str, ...], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    arguments = ("ppo", "--episodes", "400", *small, "--inject", "tempo:inf@2")
    with subprocess.Popen(
        [sys.executable, "-m", "esper", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if line.startswith("NON-FINITE"):
                os.kill(training.pid, signal.SIGKILL)
                break
        training.stdout.close()
        assert training.wait() == -signal.SIGKILL

    code, health = health_of(esper)
    assert (code, health["status"]) == (1, "DEAD")
    assert lit(health["head_inf_latch"]) == {"tempo"}

    result = esper("ppo", "--resume", health["run"], "--episodes", "8")
    assert result.returncode == 0, result.stderr
    assert "resumed after update" in result.stdout
    code, health = health_of(esper)
    assert (code, health["status"]) == (1, "FINISHED")
    assert lit(health["head_inf_latch"]) == {"tempo"}

    once = subprocess.run(
        [sys.executable, "-c", "from esper.cli import sanctum_main; sanctum_main()", "--once"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert read_lights(once.stdout.splitlines(), "Inf") == {"Tempo"}
    assert len(list(runs.iterdir())) == 1


def test_two_processes_cannot_train_one_run(
    esper: Esper, small: tuple[str, ...], tmp_path: Path
) -> None:
    assert esper("ppo", "--episodes", "2", *small).returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    with (run / LOCK_NAME).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = esper("ppo", "--resume", run.name, "--episodes", "4")
    assert refused.returncode == 2
    assert refused.stderr.endswith("is being trained by another process; stop that first\n")
    assert health_of(esper)[1]["status"] == "FINISHED"


def test_sigterm_ends_a_long_batch_at_once(esper: Esper, tmp_path: Path) -> None:
    arguments = ("ppo", "--episodes", "64", "--envs", "32", "--steps", "5000")
    with subprocess.Popen(
        [sys.executable, "-m", "esper", *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if "in lockstep" in line:
                break
        start = time.monotonic()
        training.terminate()
        rest = training.stdout.read()
        assert training.wait() == 130
    # Two seconds are promised; the machine may be busy. The batch would take many minutes.
    assert time.monotonic() - start < 60
    assert "stopped: asked to stop" in rest
    assert health_of(esper)[1]["status"] == "STOPPED"


def final_weights(run_dir: Path) -> list[torch.Tensor]:
    (run,) = run_dir.iterdir()
    newest = sorted((run / "checkpoints").glob("*.pt"))[-1]
    checkpoint = load_checkpoint(newest, torch.device("cpu"))
    assert checkpoint.update == 2
    return [*checkpoint.agent["policy"].values(), checkpoint.agent["action_generator"]]


def test_a_resumed_run_is_the_same_run_bit_for_bit(esper: Esper, tmp_path: Path) -> None:
    hosts = 16  # in two processes
    sizes = ("--envs", str(hosts), "--steps", "3")
    drill = ("--inject", "slot:nan@1")
    half, whole = str(hosts), str(2 * hosts)
    straight = esper("ppo", "--episodes", whole, *sizes, *drill, "--run-dir", "straight")
    assert straight.returncode == 0, straight.stderr
    assert esper("ppo", "--episodes", half, *sizes, *drill, "--run-dir", "split").returncode == 0
    (run,) = (tmp_path / "split").iterdir()
    resumed = esper("ppo", "--resume", run.name, "--episodes", whole, "--run-dir", "split")
    assert resumed.returncode == 0, resumed.stderr

    one, other = final_weights(tmp_path / "straight"), final_weights(tmp_path / "split")
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert (
        health_of(esper, "--run-dir", "straight")[1]["first"]
        == (health_of(esper, "--run-dir", "split")[1]["first"])
    )


@pytest.mark.parametrize(("answer", "status"), [("d", "LIVE"), ("s", "STOPPED")])
def test_leaving_sanctum_detaches_or_stops(
    open_terminal: OpenTerminal,
    esper: Esper,
    small: tuple[str, ...],
    tmp_path: Path,
    answer: str,
    status: str,
) -> None:
    terminal = open_terminal(
        "ppo", "--episodes", "4000", *small, "--run-dir", str(tmp_path / "runs")
    )
    terminal.wait_for(lambda lines: any("LIVE" in line for line in lines))
    terminal.press("q")
    terminal.wait_for(lambda lines: any("Detach" in line for line in lines))
    terminal.press(answer)
    assert terminal.wait_for_exit() == 0

    _, health = health_of(esper)
    assert health["status"] == status
    if answer == "d":
        refused = esper("ppo", "--resume", health["run"])
        assert refused.returncode == 2
        assert "still being trained" in refused.stderr
        os.kill(_pid_of(esper, health["run"]), signal.SIGINT)


def _pid_of(esper: Esper, run: str) -> int:
    """Return the pid that the refusal to resume names."""
    words = esper("ppo", "--resume", run).stderr.split()
    return int(words[words.index("process") + 1])

"""Output that cannot be written or encoded, and how a report ends then."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("command", "arguments", "lit", "unlit"),
    [
        ("sanctum_main", ("--once",), "*", "o"),
        ("main", ("health",), "*", "o"),
        ("main", ("runs",), "Inf op", "HALTED"),
    ],
)
def test_an_ascii_output_gets_ascii_signs(
    run: Run, command: str, arguments: tuple[str, ...], lit: str, unlit: str
) -> None:
    halting = ("--inject", "op:inf@1", "--on-nonfinite", "halt", "--no-sanctum")
    assert run("ppo", "--episodes", "2", "--steps", "2", *halting)[0] == 3
    printed = subprocess.run(
        [sys.executable, "-c", f"from esper.cli import {command}; {command}({arguments!r})"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert printed.returncode == (1 if arguments == ("health",) else 0)
    assert printed.stderr == b""
    assert printed.stdout.isascii()
    assert lit in printed.stdout.decode()
    assert unlit in printed.stdout.decode()
    assert "\\u" not in printed.stdout.decode()


def test_a_closed_pipe_ends_a_report_and_not_training(run: Run, tmp_path: Path) -> None:
    def into_closed_pipe(*arguments: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "esper", *arguments], cwd=tmp_path, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.close()
        return process.wait(timeout=100)

    assert into_closed_pipe("ppo", "--episodes", "2", "--steps", "1") == 0
    assert into_closed_pipe("health") == -signal.SIGPIPE


def _esper(run: Path, command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of a shell in which `esper` and `R`, the folder of runs, are known."""
    program = f"{sys.executable} -m esper"
    return subprocess.run(
        ["bash", "-c", command.replace("esper", program, 1).replace("R", str(run.parent))],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("verb", ["health", "runs"])
def test_a_report_that_cannot_be_printed_has_exit_code_2(written: Path, verb: str) -> None:
    full = _esper(written, f"esper {verb} --run-dir R > /dev/full")
    assert full.returncode == 2
    assert full.stderr.startswith("esper: the report cannot be printed: ")
    assert len(full.stderr.splitlines()) == 1
    assert _esper(written, f"esper {verb} --run-dir R >&-").returncode == 0
    assert _esper(written, f"esper {verb} --run-dir R >&- 2>&-").returncode == 0


@pytest.mark.parametrize("columns", ["0", "-1", "²", "9" * 5_000, "wide"])
def test_an_invalid_terminal_width_is_ignored(written: Path, columns: str) -> None:
    for command in ("esper health --run-dir R", "esper runs --run-dir R"):
        shown = _esper(written, command, COLUMNS=columns, LINES=columns)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "FINISHED" in shown.stdout


def test_a_bug_has_another_exit_code_than_a_light(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object, **_options: object) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr("esper.commands.health.print_health", fail)
    with pytest.raises(SystemExit) as ended:
        main(["health", "--run-dir", str(written.parent)])
    assert ended.value.code == 70
    assert "RuntimeError: a fault" in capsys.readouterr().err


def test_an_interrupted_report_ends_without_a_traceback(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("esper.commands.health.print_health", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["health", "--run-dir", str(written.parent)])
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""

"""`sanctum --once`, `--line`, `--export` and `--at`: frames, and their exit codes."""

import contextlib
import os
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.cli import sanctum_main
from esper.karn.store.run_store import RunWriter
from esper.leyline.telemetry import Notice

Run = Callable[..., tuple[int, str, str]]


def test_a_picture_that_cannot_be_written_is_one_sentence(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    code, _, errors = run("--export", "absent/a.svg", command=sanctum_main)
    assert code == 2
    assert errors == "sanctum: --export absent/a.svg: there is no folder absent\n"
    code, _, errors = run("--export", "a.pdf", command=sanctum_main)
    assert code == 2
    assert errors == (
        "sanctum: --export a.pdf: the file's name must end in one of .svg, .html, .txt\n"
    )


def test_off_a_terminal_sanctum_prints_one_frame(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    code, output, _ = run(command=sanctum_main)
    assert code == 0
    assert "Action heads" in output


def test_on_a_terminal_without_a_cursor_sanctum_prints_one_frame(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    code, output, _ = run(command=sanctum_main)
    assert code == 0
    assert "Action heads" in output
    assert "\x1b" not in output


def test_a_frame_of_a_store_that_cannot_be_read_fails_with_the_reason(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    (store,) = Path("runs").glob("*/run.sqlite")
    os.truncate(store, 4096)
    code, output, errors = run("--once", command=sanctum_main)
    assert code == 2
    assert "NO DATA" in output
    assert errors.startswith("sanctum: ")
    assert "cannot be read" in errors
    assert errors.count("\n") == 1


def test_a_frame_of_a_store_with_damaged_events_fails(run: Run) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    (store,) = Path("runs").glob("*/run.sqlite")
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("UPDATE events SET payload = x'c1' WHERE kind = 'ppo_update'")
        connection.commit()
    code, output, errors = run("--once", command=sanctum_main)
    assert code == 2
    assert "Action heads" in output
    assert errors == "sanctum: 1 event is damaged and left out: figures may have gaps\n"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("UPDATE events SET payload = x'c1' WHERE kind = 'ppo_update'", "1 event is damaged"),
        ("DROP TABLE events", "is cut short or damaged: what is left of it cannot be read"),
    ],
)
def test_a_picture_of_a_damaged_store_is_written_and_fails(
    run: Run, query: str, expected: str
) -> None:
    assert run("ppo", "--episodes", "1", "--steps", "1")[0] == 0
    assert run("--export", "sound.txt", command=sanctum_main) == (0, "", "")
    (store,) = Path("runs").glob("*/run.sqlite")
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute(query)
        connection.commit()
    code, _, errors = run("--export", "a.txt", command=sanctum_main)
    assert code == 2
    assert expected in errors
    assert errors.startswith("sanctum: ")
    assert errors.count("\n") == 1
    assert "Action heads" in Path("a.txt").read_text()


def test_a_line_has_the_exit_code_of_health(run: Run) -> None:
    directory = Path("runs/20260101-000000-lit")
    directory.mkdir(parents=True)
    with RunWriter(directory) as writer:
        writer.emit(Notice(level="info", text="loading PyTorch"))
    code, output, errors = run("--line", command=sanctum_main)
    assert (code, errors) == (0, "")
    assert output.count("\n") == 1
    assert run("health", "--fail-on", "inf,nan")[0] == code
    (directory / "run.sqlite").write_bytes(b"no database" * 100)
    code, output, errors = run("--line", command=sanctum_main)
    assert (code, output.count("\n"), errors.count("\n")) == (2, 1, 1)
    assert run("health")[0] == code


def test_a_store_that_is_a_directory_is_reported(run: Run) -> None:
    Path("runs/20260101-000000-odd/run.sqlite").mkdir(parents=True)
    code, _, errors = run("--once", "20260101-000000-odd", command=sanctum_main)
    assert code == 2
    assert errors == (
        "sanctum: runs/20260101-000000-odd/run.sqlite is a directory, not a run store\n"
    )


def test_a_run_is_shown_as_of_any_update(run: Run) -> None:
    assert run("ppo", "--episodes", "6", "--envs", "2", "--steps", "1")[0] == 0
    code, output, _ = run("--once", "--at", "2", command=sanctum_main)
    assert code == 0
    assert "update 2" in output
    assert re.search(r"update 3\b(?!%)", output) is None  # the share of the update's time is there
    code, output, errors = run("--once", "--at", "9", command=sanctum_main)
    assert (code, output) == (2, "")
    assert errors.endswith("has no update 9: give a number from 1 to 3\n")
    assert run("--export", "a.svg", "--at", "0", command=sanctum_main)[0] == 2

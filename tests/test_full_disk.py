"""Commands on a full disk: one sentence, exit code 2, and what was there before is untouched."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import Faults, injected

from esper.cli import main, sanctum_main

OLD_RUN = Path(__file__).parent / "support" / "data" / "format-2-run"
EVAL = ("eval", "--episodes", "2", "--against", "none", "--json", "--plot", "out/file.svg")
REPLAY = ("replay", "--html", "out/file.html")
EXPORT = ("--export", "out/file.svg")
GROW = (
    "grow",
    "--task",
    "digits",
    "--hosts",
    "1",
    "--steps",
    "1",
    "--policy",
    "old",
    "--no-finish",
)
Ended = tuple[object, str, list[str]]


class FullDisk(Faults):
    """A folder in which files can be made and removed, and nothing can be written into them."""

    def fails(self, call: str) -> bool:
        if not call.startswith(("os.write", "write", "flush")):
            return False
        self.failed.append(call)
        return True


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Return a function that runs a command while a folder is full: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESPER_RUN_DIR", str(tmp_path / "runs"))
    shutil.copytree(OLD_RUN, tmp_path / "runs" / "old")
    (tmp_path / "out").mkdir()

    def run(*arguments: str, full: str = "out", command: Callable[..., object] = main) -> Ended:
        disk = FullDisk(tmp_path / full, error=errno.ENOSPC)
        with injected(disk), pytest.raises(SystemExit) as ended:
            command(arguments)
        assert disk.failed
        output = capsys.readouterr()
        errors = [line for line in output.err.splitlines() if ": cannot write" in line]
        assert "Traceback" not in output.err
        return ended.value.code, output.out, errors

    return run


@pytest.mark.parametrize(
    ("arguments", "command", "is_there", "words"),
    [
        (EVAL, main, False, "esper: cannot write out/file.svg"),
        (REPLAY, main, True, "esper: cannot write out/file.html"),
        (EXPORT, sanctum_main, False, "sanctum: cannot write out/file.svg"),
        (EXPORT, sanctum_main, True, "sanctum: cannot write out/file.svg"),
    ],
)
def test_a_file_is_written_whole_or_not_at_all(
    run: Callable[..., Ended],
    tmp_path: Path,
    arguments: tuple[str, ...],
    command: Callable[..., object],
    is_there: bool,
    words: str,
) -> None:
    file = tmp_path / arguments[-1]
    if is_there:
        file.write_text("as it was")
    code, out, errors = run(*arguments, command=command)
    assert (code, errors) == (2, [f"{words}: injected"])
    assert [path.read_text() for path in file.parent.iterdir()] == ["as it was"] * is_there
    if arguments == EVAL:
        assert json.loads(out)["task"] == "mnist1d"  # what was found out is not lost
    elif command is main:
        assert "REPRODUCED" in out


def test_nothing_is_left_of_a_network_that_cannot_be_written(
    run: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = str(tmp_path / "out" / "grown")
    code, _, errors = run(*GROW, "--out", grown)
    assert (code, errors) == (2, [f"esper: cannot write into {grown}: injected"])
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    code, _, errors = run(*GROW, "--out", grown, full="temporary")
    assert code == 2
    assert errors == ["esper: cannot write a network into the folder for temporary files: injected"]
    assert not [*(tmp_path / "out").iterdir(), *(tmp_path / "temporary").iterdir()]


def test_nothing_is_left_of_a_run_that_cannot_begin(
    run: Callable[..., Ended], tmp_path: Path
) -> None:
    code, _, errors = run("ppo", "--episodes", "1", "--steps", "1", full="runs")
    assert code == 2
    assert len(errors) == 1
    assert errors[0].endswith("config.toml: injected")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["old"]

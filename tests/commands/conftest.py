"""Commands run in a folder of their own, and runs for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.cli import main
from esper.karn.store.run_store import RunWriter, create_run, find_run

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command in a folder of its own: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ESPER_RUN_DIR", raising=False)

    def run(*arguments: str, command: Callable[..., object] = main) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            command(arguments)
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def written(tmp_path: Path, payloads: Any) -> Path:
    """A finished run that is healthy."""
    made = create_run(tmp_path / "runs", "fine")
    with RunWriter(made) as writer:
        for payload in (payloads.start(), payloads.update(1), payloads.finish(update=1)):
            writer.emit(payload)
    return made


@pytest.fixture
def trained(run: Run, tmp_path: Path) -> Path:
    """A run of two updates that has finished."""
    code, _, errors = run("ppo", "--episodes", "2", "--envs", "1", "--steps", "2")
    assert code == 0, errors
    return find_run(tmp_path / "runs")

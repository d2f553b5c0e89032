"""Commands run in a new folder, and runs for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.cli import main
from esper.karn.store.run_store import RunWriter, create_run, find_run
from esper.leyline.telemetry import IncidentOrigin, IncidentRecorded

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command in a new folder: exit code, output, errors."""
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


ORIGIN = IncidentOrigin(
    operation="aten.mean.default",
    phase="forward",
    cause="poisoned input: variable rewards[6] is nan",
    file="/lib/python3.11/site-packages/cartlib/ppo.py",
    line=219,
    function="train",
    code="mean = rewards.mean()",
)
SEEN = {"head": "steer", "quantity": "logits", "kind": "nan", "epoch": 0, "minibatch": 2}


@pytest.fixture
def watched(tmp_path: Path, payloads: Any) -> Callable[..., Path]:
    """Return a function that writes a watched run with an incident, and with still updates."""

    def make(*, is_broken: bool = True, still: int = 0, groups: int = 0) -> Path:
        made = create_run(tmp_path / "runs", "cart")
        heads = {"steer": [], **{f"expert.{number}": [] for number in range(groups)}}
        start = payloads.start(
            library="cartlib 2.9", task="CartPole-v1", episodes=0, slots=[], blueprints=[],
            environments=0, host_parameters=0, heads=heads, head_kinds={"steer": "categorical"},
        )  # fmt: skip
        with RunWriter(made) as writer:
            writer.emit(start)
            writer.emit(payloads.update(1, episodes_done=0, logged={"loss": 0.5}))
            if is_broken:
                writer.emit(
                    IncidentRecorded(
                        update=2,
                        number=1,
                        path="",
                        size=0,
                        reason="a watched run keeps no capsule",
                        origin=ORIGIN,
                    ),
                    durable=True,
                )
                seen = payloads.sighting(**SEEN)
                detected = {"head_nan_detected": {"steer": True}, "head_nonfinite": [seen]}
                writer.emit(payloads.update(2, episodes_done=0, **detected))
            writer.emit(payloads.update(3, episodes_done=0, still_updates=still))
            writer.emit(payloads.finish(update=3, episodes_done=0))
        return made

    return make

"""A run of an older Esper, whose checkpoints have no digest: read, and nothing else passes for one.

`tests/support/data/format-2-run` was written by commit 0e281ee with
`esper ppo --episodes 2 --envs 1 --steps 2 --feature-size 4 --lstm-size 4 --inject op:inf@1`.
"""

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.cli import main
from esper.karn.sanctum.following.follower import RunFollower
from esper.leyline.files.checkpoint_file import (
    CheckpointError,
    newest_whole,
    parse_checkpoint,
    read_checkpoint,
)
from esper.services.launch.resume import prepare_resume
from esper.services.policies import evaluate, load_policy, locate_policy
from esper.simic.config import ConfigError
from esper.simic.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)

OLD_RUN = Path(__file__).parents[2] / "support" / "data" / "format-2-run"
CHECKPOINT = OLD_RUN / "checkpoints" / "update-000002.pt"
SENTENCE = "has no digest: only the CRC-32 of its parts was checked"
CPU = torch.device("cpu")


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_RUN, tmp_path / "old"))


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code


def test_its_store_and_lights_are_read(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = RunFollower(old_run).catch_up()
    assert (frame.status.kind, frame.completeness.gap) == ("FINISHED", None)
    assert exit_code("health", "old", "--run-dir", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "op went Inf in logits, update 1" in out
    assert "?" not in out


def test_it_resumes_from_its_checkpoint(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--episodes", "3", "--no-sanctum", "--run-dir", str(tmp_path)]
    assert exit_code("ppo", "--resume", "old", *more) == 0
    out, err = capsys.readouterr()
    assert "resumed after update 2" in out
    assert err.count(SENTENCE) == 1
    checkpoint, passed_over = load_latest(old_run / "checkpoints", CPU)
    assert checkpoint is not None
    assert (checkpoint.update, checkpoint.is_sealed, passed_over) == (3, True, [])
    assert [(update, seen.head) for update, seen in checkpoint.latches] == [(1, "op")] * 4


def test_its_policy_is_read(old_run: Path, tmp_path: Path) -> None:
    place = locate_policy(tmp_path, str(old_run / "checkpoints" / CHECKPOINT.name))
    assert [SENTENCE in warning for warning in place.warnings] == [True]
    trained = load_policy(place)
    assert (trained.config.lstm_size, trained.episodes) == (4, 2)
    state = torch.load(CHECKPOINT, weights_only=True)
    assert _is_same(dict(trained.policy.state_dict()), dict(state["agent"]["policy"]))


def test_a_caller_in_python_gets_a_warning(
    old_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.simic.evaluation.contest.evaluate", lambda *_, **__: None)
    with pytest.warns(UserWarning, match=SENTENCE) as warned:
        evaluate(["old"], run_dir=tmp_path)
    assert [warning.filename for warning in warned] == [__file__]


def test_its_config_is_compared_with_its_start(old_run: Path, tmp_path: Path) -> None:
    config = old_run / "config.toml"
    config.write_text(config.read_text().replace("lstm_size = 4", "lstm_size = 5"))
    with pytest.raises(ConfigError, match=r"lstm_size is 5 in .* 4 in its start event"):
        locate_policy(tmp_path, "old")
    with pytest.raises(ConfigError, match=r"lstm_size is 5 in .* 4 in its start event"):
        prepare_resume(tmp_path, "old", {"episodes": 9}, config_file=None, name="", report=print)


def test_without_its_store_its_policy_is_read(old_run: Path, tmp_path: Path) -> None:
    (old_run / "run.sqlite").unlink()
    checkpoint = str(old_run / "checkpoints" / CHECKPOINT.name)
    assert locate_policy(tmp_path, checkpoint).config.lstm_size == 4
    (old_run / "config.toml").write_text("")
    with pytest.raises(ConfigError, match="is damaged: it lacks"):
        locate_policy(tmp_path, checkpoint)


def test_any_altered_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = CHECKPOINT.read_bytes()
    path = tmp_path / CHECKPOINT.name
    before = load_checkpoint(CHECKPOINT, CPU)
    assert not before.is_sealed
    refused = 0
    for at in range(0, len(whole), 61):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            found = load_checkpoint(path, CPU)
        except CheckpointError:
            refused += 1
        else:  # padding of the archive, or a date in it
            assert _is_same(found.__dict__, before.__dict__), at
    assert refused > 200
    for size in range(0, len(whole), 499):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is damaged"):
            load_checkpoint(path, CPU)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    return bool(one == other)


def test_a_sealed_checkpoint_without_its_digests_is_refused(tmp_path: Path) -> None:
    agent = {"policy": {"weight": torch.ones(2)}}
    path = save_checkpoint(Checkpoint(2, 4, 1, agent, drills=[]), tmp_path)
    whole = path.read_bytes()
    state = bytes(read_checkpoint(path)[0])
    assert zipfile.is_zipfile(io.BytesIO(state))
    cut = [whole[:size] for size in range(len(state), len(whole))]
    flipped = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for at in range(len(state), len(whole))
        for bit in (range(8) if at >= len(whole) - 76 else (at % 8,))  # of the footer, every one
    ]
    for content in (*cut, *flipped, state + bytes(76)):
        with pytest.raises(CheckpointError, match="is damaged"):
            parse_checkpoint(content, path)
    path.write_bytes(state)
    assert newest_whole(tmp_path).path is None


def test_an_archive_that_only_begins_like_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "update-000001.pt"
    state = {"format": 2, "update": 1, "episodes_done": 2}
    for more, words in (
        ({}, "missing 3 required positional arguments"),
        ({"threads": 1, "agent": 7, "drills": []}, "holds no agent"),
        ({"format": 3}, "is damaged"),
        ({"update": "1"}, "is damaged"),
        ({"episodes_done": -1}, "is damaged"),
    ):
        torch.save(state | more, path)
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(path, CPU)

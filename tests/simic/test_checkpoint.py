"""Checkpoints: whole or not at all."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.simic.checkpoint import (
    KEPT,
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    load_latest,
    save_checkpoint,
)

CPU = torch.device("cpu")


def checkpoint_of(update: int) -> Checkpoint:
    agent = {"weights": torch.tensor([1.0, float(update)]), "clock": update}
    return Checkpoint(update, 4 * update, 1, agent, drills=["op.logits:inf@9"])


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(checkpoint_of(3), tmp_path)
    loaded = load_checkpoint(path, CPU)
    assert (loaded.update, loaded.episodes_done, loaded.threads) == (3, 12, 1)
    assert loaded.drills == ["op.logits:inf@9"]
    assert torch.equal(loaded.agent["weights"], torch.tensor([1.0, 3.0]))


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    for update in (9, 10, 11, 1000000):
        save_checkpoint(checkpoint_of(update), tmp_path)
    assert latest_checkpoint(tmp_path) == tmp_path / "update-1000000.pt"
    assert len(list(tmp_path.iterdir())) == KEPT


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def test_a_write_that_failed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(checkpoint_of(1), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(checkpoint_of(2), tmp_path)
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert load_checkpoint(newest, CPU).update == 1


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_one_is_named(tmp_path: Path, keep: int) -> None:
    path = save_checkpoint(checkpoint_of(1), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"update-000001\.pt cannot be read"):
        load_checkpoint(path, CPU)


def test_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "update-000001.pt"
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="not of format 2"):
        load_checkpoint(path, CPU)


def test_one_that_is_broken_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of(1), tmp_path)
    path = save_checkpoint(checkpoint_of(2), tmp_path)
    assert load_latest(tmp_path / "absent", CPU) == (None, [])
    broken = replace(checkpoint_of(2), agent={"policy": {"heads.bias": torch.tensor(torch.nan)}})
    for spoil, words in (
        (lambda: save_checkpoint(broken, tmp_path), r"not finite in policy\.heads\.bias"),
        (lambda: path.write_bytes(b"PK"), "cannot be read"),
    ):
        spoil()
        checkpoint, passed_over = load_latest(tmp_path, CPU)
        assert checkpoint is not None
        assert checkpoint.update == 1
        (sentence,) = passed_over
        assert re.search(words, sentence)
    (tmp_path / "update-000001.pt").unlink()
    with pytest.raises(CheckpointError, match=r"update-000002\.pt cannot be read"):
        load_latest(tmp_path, CPU)

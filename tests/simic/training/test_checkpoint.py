"""Checkpoints: whole or not at all."""

import contextlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Faults, injected

from esper.leyline.files.checkpoint_file import (
    FORMAT,
    CheckpointError,
    CheckpointSummary,
    read_summary,
    sealed,
)
from esper.simic.torch_files import saved
from esper.simic.training.checkpoint import (
    KEPT,
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    unsound_parts,
)

CPU = torch.device("cpu")


def checkpoint_of(update: int) -> Checkpoint:
    agent = {"weights": torch.tensor([1.0, float(update)]), "clock": update}
    return Checkpoint(update, 4 * update, 1, agent, drills=["op.logits:inf@9"])


def test_a_checkpoint_round_trip(tmp_path: Path) -> None:
    path = save_checkpoint(checkpoint_of(3), tmp_path)
    loaded = load_checkpoint(path, CPU)
    assert (loaded.update, loaded.episodes_done, loaded.threads) == (3, 12, 1)
    assert loaded.drills == ["op.logits:inf@9"]
    assert torch.equal(loaded.agent["weights"], torch.tensor([1.0, 3.0]))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for update in (9, 10, 11, 1000000):
        save_checkpoint(checkpoint_of(update), tmp_path)
    assert latest_checkpoint(tmp_path) == tmp_path / "update-1000000.pt"
    assert len(list(tmp_path.iterdir())) == KEPT


def test_without_checkpoints_there_is_no_latest_one(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def test_a_failed_write_keeps_the_old_checkpoint(
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
def test_a_truncated_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    path = save_checkpoint(checkpoint_of(1), tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"update-000001\.pt is damaged"):
        load_checkpoint(path, CPU)


def test_a_file_that_is_not_a_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "update-000001.pt"
    summary = CheckpointSummary(format=FORMAT, update=1, episodes_done=1)
    for state, words in (
        (b"no archive", "it is not a file of torch.save"),
        (saved({"threads": 1}), "missing 2 required positional arguments"),
        (saved({"threads": 1, "drills": [], "agent": 7}), "holds no agent"),
    ):
        path.write_bytes(b"".join(sealed(state, summary)))
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(path, CPU)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after it was done"])
def test_after_any_failed_call_there_is_a_checkpoint_and_no_leftover(
    tmp_path: Path, late: bool
) -> None:
    save_checkpoint(checkpoint_of(1), tmp_path)
    newest = 1
    for number in range(1, 100):
        faults = Faults(tmp_path, number, late=late)
        with injected(faults), contextlib.suppress(OSError):
            save_checkpoint(checkpoint_of(number + 1), tmp_path)
        checkpoint, passed_over = load_latest(tmp_path, CPU)
        assert checkpoint is not None, faults.failed
        assert passed_over == []
        assert checkpoint.update in (newest, number + 1)
        newest = checkpoint.update
        assert list(tmp_path.glob("*.partial")) == [], faults.failed
        if not faults.failed:
            break
    assert number > 5
    assert newest == number + 1
    assert len(list(tmp_path.iterdir())) == KEPT


def test_settings_and_latches_are_read_without_torch(tmp_path: Path, payloads: Any) -> None:
    latches = [(2, payloads.sighting())]
    kept = replace(checkpoint_of(3), settings={"envs": 2, "inject": ["op:inf@2"]}, latches=latches)
    path = save_checkpoint(kept, tmp_path)
    assert read_summary(path).latches == latches
    assert load_checkpoint(path, CPU).settings == {"envs": 2, "inject": ["op:inf@2"]}


def test_an_older_checkpoint_is_used_instead_of_a_damaged_one(tmp_path: Path) -> None:
    save_checkpoint(checkpoint_of(1), tmp_path)
    path = save_checkpoint(checkpoint_of(2), tmp_path)
    assert load_latest(tmp_path / "absent", CPU) == (None, [])
    broken = replace(checkpoint_of(2), agent={"policy": {"heads.bias": torch.tensor(torch.nan)}})
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    for spoil, words in (
        (
            lambda: save_checkpoint(broken, tmp_path),
            r"not finite, or below 0, in policy\.heads\.bias",
        ),
        (lambda: path.write_bytes(whole), "is damaged"),
    ):
        spoil()
        checkpoint, passed_over = load_latest(tmp_path, CPU)
        assert checkpoint is not None
        assert checkpoint.update == 1
        (one,) = passed_over
        assert one.path == path
        assert re.search(words, one.reason)
    # The next one takes the place of the damaged one, not of the one that is whole.
    save_checkpoint(checkpoint_of(3), tmp_path, unusable=[path])
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "update-000001.pt",
        "update-000003.pt",
    ]
    for each in tmp_path.iterdir():
        each.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"update-000003\.pt is damaged"):
        load_latest(tmp_path, CPU)


@pytest.mark.parametrize("name", ["eps", "lr"])
def test_a_setting_of_the_optimizer_that_is_not_finite_is_unsound(name: str) -> None:
    state = {"optimizer": {"param_groups": [{"eps": 1e-5, "lr": 1e-3, "betas": (0.9, 0.999)}]}}
    assert unsound_parts(state) == []
    state["optimizer"]["param_groups"][0][name] = math.nan
    assert unsound_parts(state) == [f"optimizer.param_groups.0.{name}"]

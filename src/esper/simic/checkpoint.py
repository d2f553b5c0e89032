"""Checkpoints: written whole or not at all, read without running any code that they hold.

A checkpoint is taken between updates. Episodes are whole there: no host is alive, and the next
batch is born from seeds that follow from the run's seed and the number of the episode. So the
agent, its generators and the counters are all the state there is.

torch is imported where a checkpoint is read or written, so that looking for one needs none of it.
"""

import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FORMAT = 2
KEPT = 2  # the newest, and one before it in case the newest cannot be read
_NAME = re.compile(r"update-(\d+)\.pt")


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message is one clear sentence."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two updates."""

    update: int  # updates completed
    episodes_done: int
    threads: int  # sums are taken in another order with other threads
    agent: dict[str, Any]
    drills: list[str]  # still to be planted
    bad_in_a_row: int = 0  # how far intervening had escalated
    rollbacks_in_a_row: int = 0
    incidents: int = 0  # so far, kept or not


def save_checkpoint(checkpoint: Checkpoint, directory: Path, spare: Path | None = None) -> Path:
    """Write the checkpoint and remove all but the newest few; return its path.

    `spare` is not removed, however old: the last one before something went wrong, say.

    It is flushed to the disk under another name and then renamed: a reader, or a run that is
    resumed after a crash, finds the old one or the new one and never half of one.

    Raises:
        OSError: the disk does not take it.
    """
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"update-{checkpoint.update:06d}.pt"
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **checkpoint.__dict__}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    for old in _numbered(directory)[:-KEPT]:
        if old != spare:
            old.unlink()
    return path


def latest_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint in `directory`, or None if there is none."""
    numbered = _numbered(directory)
    return numbered[-1] if numbered else None


def load_latest(directory: Path, device: "torch.device") -> tuple[Checkpoint | None, list[str]]:
    """Read the newest checkpoint that can be gone on from.

    Returns:
        The checkpoint, None if there is no file of one; and a sentence for each newer one that was
        passed over.

    Raises:
        CheckpointError: there are some, and none can be gone on from.
    """
    passed_over = []
    for path in reversed(_numbered(directory)):
        try:
            checkpoint = load_checkpoint(path, device)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        if broken := _unsound(checkpoint.agent):
            names = ", ".join(broken)
            passed_over.append(f"the checkpoint {path} is not finite in {names}, or below 0")
            continue
        return checkpoint, passed_over
    if passed_over:
        raise CheckpointError("; ".join(passed_over))
    return None, []


#: What is bad below 0: Adam's second moments, whose root is taken, and its step counter.
_NEVER_NEGATIVE = ("exp_avg_sq", "step")


def _unsound(state: Any, name: str = "") -> list[str]:
    """Return the names of the tensors within nested dictionaries that training cannot go on from.

    They hold a NaN or an Inf, or a value below 0 where there can be none.
    """
    import torch

    if isinstance(state, torch.Tensor):
        if not state.is_floating_point():
            return []
        is_negative = name.endswith(_NEVER_NEGATIVE) and bool((state < 0).any())
        return [name] if is_negative or not state.isfinite().all() else []
    if not isinstance(state, dict):
        return []
    return [
        found
        for key, value in state.items()
        for found in _unsound(value, f"{name}.{key}" if name else str(key))
    ]


def _numbered(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("update-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("update-")))


def load_checkpoint(path: Path, device: "torch.device") -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: it is damaged, or of a format that this version does not know.
    """
    import torch

    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read") from error
    if not isinstance(state, dict) or state.pop("format", None) != FORMAT:
        raise CheckpointError(f"the checkpoint {path} is not of format {FORMAT}, which this reads")
    return Checkpoint(**state)

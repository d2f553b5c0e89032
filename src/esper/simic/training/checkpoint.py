"""Checkpoints: written atomically, and read without executing code from the file.

A checkpoint is taken between updates, where all episodes have ended. The next batch of hosts only
depends on the random seed of the run and on the number of the episode, so the agent, its generators
and the counters are the complete state. The file format, with its digests and its summary, is in
`esper.leyline.files.checkpoint_file`.

torch is only imported inside functions, so that this module can be loaded without it.
"""

import errno
import math
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

from esper.leyline.files.checkpoint_file import (
    CHECKPOINTS_NAME,
    FORMAT,
    CheckpointError,
    CheckpointSummary,
    check_number,
    checkpoint_path,
    checkpoints_in,
    newest_whole,
    parse_checkpoint,
    read_checkpoint,
    sealed,
)
from esper.leyline.files.durable_files import replace_file
from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.torch_files import TorchFileError, load_values, saved

KEPT = 2  # the newest, and one before it in case the newest cannot be read
_PARTIAL_NAME = "next.partial"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two updates."""

    update: int  # updates completed
    episodes_done: int
    threads: int  # PyTorch threads, which determine the order of sums
    agent: dict[str, Any]
    drills: list[str]  # drills that are still to be planted
    bad_in_a_row: int = 0  # state of `Escalation`
    rollbacks_in_a_row: int = 0
    incidents: int = 0  # number of incidents so far, kept or not
    update_was_good: bool = False  # whether everything in the last update was finite
    settings: Mapping[str, Any] = field(default_factory=dict)  # settings of the run, by name
    #: The first sighting of each head, quantity and kind in the run, with its update.
    latches: list[tuple[int, NonfiniteSighting]] = field(default_factory=list)
    is_sealed: bool = True  # whether its file has digests; format 2 has none


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint that cannot be resumed from."""

    path: Path
    reason: str  # a sentence


#: The fields of a checkpoint that are in its summary instead of its state.
_OF_SUMMARY = ("update", "episodes_done", "update_was_good", "settings", "latches", "is_sealed")


def save_checkpoint(
    checkpoint: Checkpoint,
    directory: Path,
    spare: Path | None = None,
    unusable: Collection[Path] = (),
) -> Path:
    """Write the checkpoint and remove all but the newest ones; return its path.

    It is flushed to the disk under another name and then renamed, so that a reader, or a run that
    is resumed after a crash, finds the old one or the new one and never half of one.

    Args:
        checkpoint: the state.
        directory: the folder of the checkpoints; it is created if it does not exist.
        spare: an old checkpoint to keep, such as the last one of a good update.
        unusable: checkpoints that cannot be resumed from; they are removed.

    Raises:
        OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(directory, checkpoint.update)
    state = {key: value for key, value in checkpoint.__dict__.items() if key not in _OF_SUMMARY}
    summary = CheckpointSummary(
        format=FORMAT,
        update=checkpoint.update,
        episodes_done=checkpoint.episodes_done,
        update_was_good=checkpoint.update_was_good,
        settings=dict(checkpoint.settings),
        latches=checkpoint.latches,
    )
    try:
        parts = sealed(saved(state), summary)
    except (RuntimeError, MemoryError) as error:  # torch reports a lack of memory as the former
        raise OSError(errno.ENOMEM, f"there is not enough memory: {error}") from error
    replace_file(path, parts, directory / _PARTIAL_NAME)
    for old in {*unusable, *_superseded(directory, unusable)} - {spare, path}:
        with suppress(OSError):  # it is removed with the next checkpoint
            os.unlink(old)
    return path


def _superseded(directory: Path, unusable: Collection[Path]) -> list[Path]:
    usable = [path for _, path in checkpoints_in(directory) if path not in unusable]
    return usable[:-KEPT]


def latest_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint in `directory`, or None if there is none."""
    numbered = checkpoints_in(directory)
    return numbered[-1].path if numbered else None


def load_latest(
    directory: Path, device: "torch.device"
) -> tuple[Checkpoint | None, list[PassedOver]]:
    """Read the newest checkpoint that can be resumed from.

    Returns:
        The checkpoint, None if there is no file of one; and each newer one that was passed over.

    Raises:
        CheckpointError: there are some, and none can be resumed from.
    """
    passed_over = []
    for update, path in reversed(checkpoints_in(directory)):
        try:
            checkpoint = load_checkpoint(path, device)
            check_number(path, update, checkpoint.update)
        except CheckpointError as error:
            passed_over.append(PassedOver(path, str(error)))
            continue
        if broken := unsound_parts(checkpoint.agent):
            names = ", ".join(broken)
            reason = f"the checkpoint {path} has values that are not finite, or below 0, in {names}"
            passed_over.append(PassedOver(path, reason))
            continue
        return checkpoint, passed_over
    if passed_over:
        raise CheckpointError("; ".join(one.reason for one in passed_over))
    return None, []


def done_on_disk(run: Path) -> tuple[int, int]:
    """Return the number of updates and episodes in the newest undamaged checkpoint of a run."""
    summary = newest_whole(run / CHECKPOINTS_NAME).summary
    return (summary.update, summary.episodes_done) if summary else (0, 0)


def last_good(directory: Path, resumed: Checkpoint) -> Path | None:
    """Return the newest undamaged checkpoint of a good update; None if there is none.

    Args:
        directory: the folder of the checkpoints.
        resumed: the checkpoint that training resumes from; newer ones are ignored.
    """
    if resumed.update_was_good:
        return checkpoint_path(directory, resumed.update)
    for update, path in reversed(checkpoints_in(directory)):
        if update >= resumed.update:
            continue
        with suppress(CheckpointError):
            summary = read_checkpoint(path)[1]
            check_number(path, update, summary.update)
            if summary.update_was_good:
                return path
    return None


#: Parts of Adam's state that must not be negative: second moments, and the step counter.
_NEVER_NEGATIVE = ("exp_avg_sq", "step")
#: What may be -inf: the biases by which a policy forbids choices.
_MAY_FORBID = "policy.heads.bias"


def unsound_parts(state: Any, name: str = "") -> list[str]:
    """Return the names of the tensors and numbers in nested containers with invalid values.

    These are NaN and Inf, and values below 0 where there can be none.
    """
    import torch

    if isinstance(state, torch.Tensor):
        if not state.is_floating_point():
            return []
        if name == _MAY_FORBID:
            state = state.masked_fill(state == -torch.inf, 0)
        is_negative = name.endswith(_NEVER_NEGATIVE) and bool((state < 0).any())
        return [name] if is_negative or not state.isfinite().all() else []
    if isinstance(state, float):  # a setting of the optimizer
        return [] if math.isfinite(state) else [name]
    if isinstance(state, list | tuple):
        state = dict(enumerate(state))
    if not isinstance(state, dict):
        return []
    return [
        found
        for key, value in state.items()
        for found in unsound_parts(value, f"{name}.{key}" if name else str(key))
    ]


def load_checkpoint(path: Path, device: "torch.device") -> Checkpoint:
    """Read a checkpoint and check its digests.

    Raises:
        CheckpointError: it is damaged, or has a format that this version does not read.
    """
    return _checkpoint_of(*read_checkpoint(path), path, device)


def parsed_checkpoint(content: bytes, path: Path, device: "torch.device") -> Checkpoint:
    """Return the checkpoint in the content of a file, and check its digests.

    Args:
        content: content of the file.
        path: path of the file, for messages.
        device: device of the tensors.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    return _checkpoint_of(*parse_checkpoint(content, path), path, device)


def _checkpoint_of(
    data: memoryview, summary: CheckpointSummary, path: Path, device: "torch.device"
) -> Checkpoint:
    try:
        state = load_values(data, device)
        if not summary.is_sealed:
            state = _without_summary(state, summary)
        of_summary = {name: getattr(summary, name) for name in _OF_SUMMARY}
        checkpoint = Checkpoint(**of_summary, **state)
    except (TorchFileError, TypeError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error
    if not isinstance(checkpoint.agent, dict):
        raise CheckpointError(f"the checkpoint {path} holds no agent")
    return checkpoint


def _without_summary(state: Any, summary: CheckpointSummary) -> dict[str, Any]:
    """Return the state of a checkpoint of format 2 without the fields of its summary."""
    fields = ("format", "update", "episodes_done")
    if not isinstance(state, dict) or any(
        state.get(key) != getattr(summary, key) for key in fields
    ):
        raise TorchFileError("it is not of the format that it begins with")
    return {key: value for key, value in state.items() if key not in fields}

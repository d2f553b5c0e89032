"""Checkpoints of a run with several ranks: rank 0 writes and reads them for all ranks.

Between two updates no host exists, and the ranks have the same policy, generators and counters. So
one checkpoint is the state of all ranks, and it resumes with any number of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from esper.leyline.files.checkpoint_file import checkpoint_path
from esper.simic.torch_files import load_values, saved
from esper.simic.training.checkpoint import (
    Checkpoint,
    PassedOver,
    load_latest,
    parsed_checkpoint,
)
from esper.simic.training.checkpoint_writer import CheckpointWriter

if TYPE_CHECKING:
    from esper.simic.agent.ppo import PPOAgent
    from esper.simic.ranks.collectives import Ranks


def load_for_all(
    folder: Path, device: torch.device, ranks: "Ranks | None"
) -> tuple[Checkpoint | None, list[PassedOver]]:
    """Load the newest checkpoint that can be resumed from; rank 0 reads it and sends it to all.

    Args:
        folder: folder of the run's checkpoints; only rank 0 reads it.
        device: device of the tensors.
        ranks: the ranks of the run; None for a process that trains alone.

    Returns:
        As `load_latest`. The list of rejected checkpoints is empty in other ranks than rank 0.

    Raises:
        CheckpointError: there are checkpoints, but none can be resumed from.
    """
    if ranks is None:
        return load_latest(folder, device)
    if ranks.rank == 0:
        content = b""
        try:
            checkpoint, passed_over = load_latest(folder, device)
            if checkpoint is not None:
                content = checkpoint_path(folder, checkpoint.update).read_bytes()
        finally:
            ranks.first_bytes(content)  # the others wait for it
        return checkpoint, passed_over
    content = ranks.first_bytes(None)
    path = folder / "rank 0"
    return (parsed_checkpoint(content, path, device) if content else None), []


class NotedCheckpoints(CheckpointWriter):
    """Checkpoints in other ranks than rank 0: they only note what rank 0 writes."""

    def write(self, checkpoint: Checkpoint) -> None:
        """Note that rank 0 writes this checkpoint."""
        self._written = checkpoint.update

    def write_held(self) -> None:
        """Do nothing: rank 0 holds the same state."""


def take_same_state(agent: "PPOAgent", ranks: "Ranks") -> list[int]:
    """Compare the learning state of all ranks; a rank whose state differs loads that of rank 0.

    Different processors may round differently, and a fault may change a weight in one rank alone.

    Args:
        agent: the agent.
        ranks: the ranks of the run.

    Returns:
        The ranks whose state differed from that of rank 0.
    """
    digests = ranks.numbers(_digest(agent.state.tensors()))
    different = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if different:  # every rank has the same digests
        content = ranks.first_bytes(saved(agent.state_dict()) if ranks.rank == 0 else None)
        if ranks.rank in different:
            agent.load_state_dict(load_values(content, agent.device))
    return different


@torch.no_grad()
def _digest(tensors: list[torch.Tensor]) -> int:
    """Return a number that changes with any bit of the tensors."""
    total = 0
    for place, tensor in enumerate(tensors):
        bits = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
        words = torch.nn.functional.pad(bits, (0, -len(bits) % 4)).view(torch.int32).long()
        weights = torch.arange(1, len(words) + 1, device=words.device)
        total += int((words * (2 * weights + 1)).sum()) * (2 * place + 1)
    return (total & 0xFFFF_FFFF_FFFF_FFFF) - (1 << 63)

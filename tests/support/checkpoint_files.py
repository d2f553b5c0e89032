"""Checkpoint files without an agent, for tests that only read their summaries."""

from pathlib import Path
from typing import Any

from esper.leyline.files.checkpoint_file import (
    CHECKPOINTS_NAME,
    FORMAT,
    CheckpointSummary,
    checkpoint_path,
    sealed,
)
from esper.simic.config import TrainingConfig, settings_of


def write_empty_checkpoint(
    run: Path, update: int, config: TrainingConfig | None = None, **summary: Any
) -> Path:
    """Write a whole checkpoint with an empty state.

    Args:
        run: directory of the run.
        update: number of the update.
        config: settings of the run; None for none.
        summary: further fields of `CheckpointSummary`, as `episodes_done`.
    """
    path = checkpoint_path(run / CHECKPOINTS_NAME, update)
    settings = {} if config is None else settings_of(config)
    content = CheckpointSummary(format=FORMAT, update=update, settings=settings, **summary)
    path.write_bytes(b"".join(sealed(b"", content)))
    return path

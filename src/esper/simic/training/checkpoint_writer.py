"""Writes the checkpoints of a run; a disk that refuses one does not end training."""

from collections.abc import Sequence
from pathlib import Path

from esper.leyline.telemetry import CheckpointWritten
from esper.simic.training.checkpoint import Checkpoint, PassedOver, save_checkpoint, unsound_parts
from esper.simic.training.run_log import RunLog


class CheckpointWriter:
    """Writes checkpoints and keeps the last one of a good update until there is another.

    Args:
        folder: the folder of the checkpoints, in the run's directory.
        log: console and log of the run.
        update: the update of the newest checkpoint; 0 if there is none.
        good: the newest checkpoint of a good update; None if there is none.
        passed_over: checkpoints that cannot be resumed from; removed with the next one written.
    """

    def __init__(
        self,
        folder: Path,
        log: RunLog,
        *,
        update: int,
        good: Path | None,
        passed_over: Sequence[PassedOver],
    ) -> None:
        self._folder = folder
        self._log = log
        self._written = update
        self._good = good
        self._unusable = [one.path for one in passed_over]
        self._failed = 0  # checkpoints in a row
        self._pending: Checkpoint | None = None
        self._answered: int | None = None  # update of the last answer to a request

    @property
    def has_failed(self) -> bool:
        """Whether the last checkpoint could not be written."""
        return self._failed > 0

    def has(self, update: int) -> bool:
        """Return whether the newest checkpoint is that of an update."""
        return self._written == update

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and remove older ones; report an error of the disk."""
        try:
            path = save_checkpoint(checkpoint, self._folder, self._good, self._unusable)
            size = path.stat().st_size
        except OSError as error:
            self._failed += 1
            self._log.say(f"no checkpoint of update {checkpoint.update}: {error}", "error")
            return
        if failed := self._failed:
            missing = "1 was" if failed == 1 else f"{failed} were"
            self._log.say(f"checkpoints are written again; {missing} not", "warning")
        self._failed = 0
        self._unusable = []
        self._written = checkpoint.update
        if checkpoint.update_was_good:
            self._good = path
        relative = str(path.relative_to(self._folder.parent))
        self._log.writer.emit(CheckpointWritten(update=checkpoint.update, path=relative, size=size))

    def hold(self, checkpoint: Checkpoint | None) -> None:
        """Hold the state after the last update in memory, for a stop in the middle of a batch.

        Args:
            checkpoint: the state, which must not change; None if its checkpoint was written.
        """
        self._pending = checkpoint

    def write_on_request(self) -> None:
        """Write the held state, as the user asked, and report which checkpoint is the newest.

        A scheduler sends the signal to every rank; the requests within one update get one answer.
        """
        self.write_held()
        if self._answered == self._written:
            return
        self._answered = self._written
        newest = f"is of update {self._written}" if self._written else "follows the first update"
        self._log.say(f"asked for a checkpoint: the newest {newest}", "info")

    def write_held(self) -> None:
        """Write the held state, unless it was written or a value in it is not finite."""
        held = self._pending
        if held is None or self.has(held.update) or unsound_parts(held.agent):
            return
        self.write(held)

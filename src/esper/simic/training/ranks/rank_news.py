"""Turns the reports of other ranks into requests to this process."""

import os
import signal
from collections.abc import Callable

from esper.simic.training.process.stopping import StopRequest


class RankNews:
    """The `Listener` of a training process.

    Only a signal to this process interrupts its main thread, so each report that ends training
    becomes a signal.

    Args:
        stop: the requests of this process.
        end_process: ends the process at once; its argument is a sentence with the reason.
    """

    def __init__(self, stop: StopRequest, end_process: Callable[[str], None]) -> None:
        self._stop = stop
        self._end_process = end_process

    def stop(self) -> None:
        """Stop at once, because another rank was asked to stop."""
        self._interrupt()

    def write_checkpoint(self) -> None:
        """Write a checkpoint, because another rank was asked for one."""
        self._stop.checkpoint_wanted = True

    def lost(self, sentence: str) -> None:
        """Stop at once, because another rank ended."""
        self._stop.lost = sentence
        self._interrupt()

    def overdue(self, sentence: str) -> None:
        """End the process unless it is already ending; its main thread does not respond."""
        if not self._stop.is_noticed:
            self._end_process(sentence)

    def _interrupt(self) -> None:
        if not self._stop.at_once:
            os.kill(os.getpid(), signal.SIGTERM)

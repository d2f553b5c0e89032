"""What the other ranks of a run report, as requests to this process."""

import os
import signal
from collections.abc import Callable

from esper.simic.training.process.stopping import StopRequest


class RankNews:
    """A `Listener` of connections between ranks.

    A signal to this process is the only thing that interrupts its main thread, so each report that
    ends training becomes one.

    Args:
        stop: the requests of this process.
        end_process: ends the process at once, given the reason, a sentence.
    """

    def __init__(self, stop: StopRequest, end_process: Callable[[str], None]) -> None:
        self._stop = stop
        self._end_process = end_process

    def stop(self) -> None:
        """Stop at once, since another rank was asked to."""
        self._interrupt()

    def write_checkpoint(self) -> None:
        """Write a checkpoint, since another rank was asked for one."""
        self._stop.checkpoint_wanted = True

    def lost(self, sentence: str) -> None:
        """Stop at once, since another rank ended."""
        self._stop.lost = sentence
        self._interrupt()

    def overdue(self, sentence: str) -> None:
        """End the process, unless it is ending: its main thread waits for what never comes."""
        if not self._stop.is_noticed:
            self._end_process(sentence)

    def _interrupt(self) -> None:
        if not self._stop.at_once:
            os.kill(os.getpid(), signal.SIGTERM)

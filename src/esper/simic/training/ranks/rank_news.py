"""What the other ranks of a run report, as requests to this process."""

import os
import signal
from contextlib import suppress

from esper.simic.training.process.stopping import StopRequest


class RankNews:
    """A `Listener` of connections between ranks.

    A signal to this process is the only thing that interrupts its main thread, so each report that
    ends training becomes one.

    Args:
        stop: the requests of this process.
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop

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
        """End the process, unless it is ending: its main thread waits in vain."""
        if self._stop.is_noticed:
            return
        with suppress(OSError):
            os.write(2, f"esper: {sentence}; this process waits in vain and ends\n".encode())
        os._exit(1)

    def _interrupt(self) -> None:
        if not self._stop.at_once:
            os.kill(os.getpid(), signal.SIGTERM)

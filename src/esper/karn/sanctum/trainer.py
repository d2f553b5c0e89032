"""What Sanctum needs to know of a training process that it was opened over."""

from typing import Literal, Protocol

#: How Sanctum was left: a plain quit, or with a live trainer detached from or asked to stop.
Outcome = Literal["quit", "detach", "stop"]


class TrainerChild(Protocol):
    """A training process that was started together with Sanctum."""

    @property
    def pid(self) -> int:
        """The process's id."""

    def poll(self) -> int | None:
        """Return the process's exit code, or None while it runs."""

    def stop(self) -> None:
        """Ask the process to write a checkpoint and finish at its next update; do not wait."""

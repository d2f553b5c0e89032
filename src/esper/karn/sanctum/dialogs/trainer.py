"""What Sanctum needs to know of a training process that it was opened over."""

from typing import Literal, Protocol

#: How Sanctum was left: a plain quit, or with a live trainer to be left running or to be stopped.
Outcome = Literal["quit", "detach", "stop"]


class TrainerChild(Protocol):
    """A training process that was started together with Sanctum.

    Sanctum never signals it: stopping it, when that is the outcome, is for whoever started it.
    """

    @property
    def pid(self) -> int:
        """The process's id."""

    def poll(self) -> int | None:
        """Return the process's exit code, or None while it runs."""

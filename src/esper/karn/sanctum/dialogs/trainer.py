"""The training process that was started together with Sanctum."""

from typing import Literal, Protocol

#: How the user left Sanctum: quit, or with a live trainer, which keeps running or is to be stopped.
Outcome = Literal["quit", "detach", "stop"]


class TrainerChild(Protocol):
    """A training process that was started together with Sanctum.

    Sanctum sends it no signals: the caller stops it if the outcome is "stop".
    """

    @property
    def pid(self) -> int:
        """The process's id."""

    def poll(self) -> int | None:
        """Return the process's exit code, or None while it runs."""

"""The lock of a run, so that only one process trains it."""

import fcntl
from pathlib import Path
from typing import IO, Final, Self

from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_directory import LOCK_NAME
from esper.simic.config import ConfigError

_IN_TRAINING: Final = (
    StatusKind.LIVE,
    StatusKind.STARTING,
    StatusKind.STUCK,
    StatusKind.STALE,
    StatusKind.DEGRADED,
)


class HeldRun:
    """A locked run: no other process can train it until this is closed or the process ends.

    Args:
        directory: the run's directory.
        descriptor: descriptor of the lock, if the parent process holds it already.

    Attributes:
        directory: the run's directory.
        doubt: a warning if the file system has no locks; otherwise empty.

    Raises:
        ConfigError: another process trains the run, or the lock file cannot be written.
    """

    def __init__(self, directory: Path, descriptor: int | None = None) -> None:
        self.directory = directory
        self.doubt = ""
        try:
            path = directory / LOCK_NAME
            self._lock: IO[str] = open(path if descriptor is None else descriptor, "a")  # noqa: SIM115  (until close)
        except OSError as error:
            raise ConfigError(f"cannot write to {directory}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ConfigError(f"{directory.name} {_why_held(directory)}; stop that first") from None
        except OSError as error:
            self.doubt = (
                f"the file system of {directory} has no locks ({error.strerror}): make sure that "
                "no other process trains this run"
            )

    @property
    def descriptor(self) -> int:
        """Descriptor of the lock, for a child process that trains the run."""
        return self._lock.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; a child process with its descriptor still holds it."""
        self._lock.close()


def _why_held(run: Path) -> str:
    from esper.karn.sanctum.following.follower import RunFollower  # only needed for a refusal

    status = RunFollower(run).catch_up().status
    if status.kind in _IN_TRAINING:
        return f"is still being trained: {status.sentence}"
    return "is being trained by another process"

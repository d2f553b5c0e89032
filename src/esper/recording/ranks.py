"""Lets the processes of one training agree on a common run, without collective operations.

They use the key-value store of torch.distributed: torchrun's store, which exists before the script
starts, or the store of the process group. The first process creates the run. Ranks wait for each
other only when a watch is created and after a halt, with a time limit.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist

from esper.karn.store.rank_folders import Rank, rank_of_environment
from esper.leyline.errors import EsperError

#: Seconds that a rank waits for the others when it creates its watch.
WAIT_S: Final = 60.0
_CONNECT_S: Final = 20.0
_LEAVE_S: Final = 5.0
_POLL_S: Final = 0.02
#: Prefix of all keys that this module writes.
_PREFIX: Final = "esper/"

#: Numbers of the runs that this process records together with others; the same in every rank.
_numbers = count()
_launcher: dict[str, Any] = {}  # the connection to torchrun's store, once it is made


class RanksError(EsperError, ValueError):
    """The ranks cannot agree on their run; the message says what to do."""


def own_rank() -> Rank:
    """Return the rank of this process in the process group, or as set by the launcher.

    If the launcher set no address at which the processes can connect, this process counts as a
    single one.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rank_of_environment() if "MASTER_ADDR" in os.environ else Rank()
    rank, local = dist.get_rank(), os.environ.get("LOCAL_RANK", "")
    return Rank(rank, dist.get_world_size(), int(local) if local.isdigit() else rank)


class Meeting:
    """Exchange between the ranks of one run at its start.

    Args:
        rank: this process's rank.

    Attributes:
        rank: this process's rank.

    Raises:
        RanksError: there is no key-value store.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self._store = _store(rank)
        self._key = f"{_PREFIX}run/{next(_numbers)}"

    def run(self, create: Callable[[], Path]) -> Path:
        """Return the folder of the run, the same in all ranks.

        Args:
            create: creates the folder; called only in the first rank that calls this method.

        Raises:
            RanksError: the first rank did not report its folder in time.
            OSError: this rank is the first, and cannot create the folder.
        """
        if self._has_come_first():
            folder = ""
            try:
                folder = os.fspath(create().absolute())
            finally:  # do not let the others wait until the time limit
                self._store.set(self._key, folder)
            return Path(folder)
        if self._wait_for(lambda: self._store.check([self._key])):
            if folder := self._store.get(self._key).decode():
                return Path(folder)
            raise RanksError("the rank that creates the run's folder failed: see its error")
        raise RanksError(
            f"rank {self.rank.rank} of {self.rank.world_size} waited for {WAIT_S:g} s for the "
            "rank that creates the run's folder: check why that rank did not call esper.watch"
        )

    def wait_for_all(self, on_nonfinite: str) -> None:
        """Wait until all ranks watch with the same option; joint decisions require this.

        Args:
            on_nonfinite: the watch's setting.

        Raises:
            RanksError: another rank did not arrive in time, or has a different setting.
        """
        size = self.rank.world_size
        # After a restart by torchrun, the store may still contain the earlier keys.
        key = f"{self._key}/{on_nonfinite}/{restart_count()}"
        self._store.add(key, 1)
        if not self._wait_for(lambda: self._store.add(key, 0) >= size):
            raise RanksError(
                f"on_nonfinite={on_nonfinite!r} needs esper.watch with this option in all {size} "
                f"ranks, because they decide together; after {WAIT_S:g} s some had not called it"
            )

    def latest(self, update: int) -> int:
        """Return the last update that any rank recorded before all were restarted.

        Ranks that do not report theirs within a few seconds are ignored.

        Args:
            update: number of the last update of this rank; 0 if there is none.
        """
        key, size = f"{self._key}/updates/{restart_count()}", self.rank.world_size
        self._store.set(f"{key}/{self.rank.rank}", str(update))
        each = [f"{key}/{rank}" for rank in range(size)]
        self._wait_for(lambda: self._store.check(each), _LEAVE_S)
        known = [one for one in each if self._store.check([one])]
        return max(int(self._store.get(one)) for one in known)

    def leave_together(self) -> None:
        """Wait a few seconds until all ranks have recorded their end.

        Launchers kill the other processes as soon as one has ended.
        """
        key = f"{self._key}/ends/{restart_count()}"
        with suppress(RuntimeError):  # the store ended with another rank
            self._store.add(key, 1)
            self._wait_for(lambda: self._store.add(key, 0) >= self.rank.world_size, _LEAVE_S)

    def _has_come_first(self) -> bool:
        if restart_count():  # the folder may exist from before the restart
            return not self._store.check([self._key]) and self._claims()
        return self._claims()

    def _claims(self) -> bool:
        return int(self._store.add(f"{self._key}/claims", 1)) == 1

    def _wait_for(self, is_so: Callable[[], bool], seconds: float | None = None) -> bool:
        deadline = time.monotonic() + (WAIT_S if seconds is None else seconds)
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


def restart_count() -> int:
    """Return the number of restarts of this job by torchrun."""
    given = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(given) if given.isdigit() else 0


def _store(rank: Rank) -> Any:
    """Return the key-value store of the ranks.

    Raises:
        RanksError: there is no store, or it cannot be reached.
    """
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            if not _launcher:
                _launcher["store"] = dist.TCPStore(
                    os.environ["MASTER_ADDR"],
                    int(os.environ["MASTER_PORT"]),
                    is_master=False,
                    timeout=timedelta(seconds=_CONNECT_S),
                )
            return _launcher["store"]
        if dist.is_available() and dist.is_initialized():
            return dist.distributed_c10d._get_default_store()
    except (RuntimeError, KeyError, ValueError) as error:
        raise RanksError(
            f"rank {rank.rank} of {rank.world_size} cannot reach the store of torch.distributed, "
            f"where the ranks agree on their run: {error}"
        ) from error
    raise RanksError(
        f"this is rank {rank.rank} of {rank.world_size}, and it cannot connect to the others: "
        "call esper.watch after torch.distributed.init_process_group, or start the script with "
        "torchrun"
    )

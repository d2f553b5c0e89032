"""How the processes of one training agree on the run that they record, without a collective.

They meet at the key-value store with which torch.distributed starts: that of torchrun, which is
there before a script begins, or that of the process group. The first to come creates the run.
Whoever waits there waits for a bounded time, and only when a watch is made.
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

#: Seconds that a rank waits for the others when its watch is made.
WAIT_S: Final = 60.0
_CONNECT_S: Final = 20.0
_LEAVE_S: Final = 5.0
_POLL_S: Final = 0.02
#: Keys of all that is written here.
_PREFIX: Final = "esper/"

#: Numbers of the runs that this process records with others: the same in every rank.
_numbers = count()
_launcher: dict[str, Any] = {}  # the connection to torchrun's store, once it is made


class RanksError(EsperError, ValueError):
    """The ranks cannot agree on their run; the message says what to do."""


def own_rank() -> Rank:
    """Return the rank of this process: that of the process group, or the launcher's.

    Where nothing says how the processes of a launcher find each other, each trains alone.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rank_of_environment() if "MASTER_ADDR" in os.environ else Rank()
    rank, local = dist.get_rank(), os.environ.get("LOCAL_RANK", "")
    return Rank(rank, dist.get_world_size(), int(local) if local.isdigit() else rank)


class Meeting:
    """Where the ranks of one run meet when it begins.

    Args:
        rank: of this process.

    Attributes:
        rank: of this process.

    Raises:
        RanksError: there is no store at which to meet.
    """

    def __init__(self, rank: Rank) -> None:
        self.rank = rank
        self._store = _store(rank)
        self._key = f"{_PREFIX}run/{next(_numbers)}"

    def run(self, create: Callable[[], Path]) -> Path:
        """Return the folder of the run, the same in all ranks.

        Args:
            create: creates the folder; called in the first rank that comes here.

        Raises:
            RanksError: the first rank did not say which folder it created.
            OSError: this rank is the first, and cannot create the folder.
        """
        if self._has_come_first():
            folder = ""
            try:
                folder = os.fspath(create().absolute())
            finally:  # the others must not wait for what does not come
                self._store.set(self._key, folder)
            return Path(folder)
        if self._wait_for(lambda: self._store.check([self._key])):
            if folder := self._store.get(self._key).decode():
                return Path(folder)
            raise RanksError("the rank that creates the run's folder could not: see its error")
        raise RanksError(
            f"rank {self.rank.rank} of {self.rank.world_size} waited for {WAIT_S:g} s for the "
            "rank that creates the run's folder: see why that rank did not come"
        )

    def wait_for_all(self, on_nonfinite: str) -> None:
        """Wait until every rank watches in the same way, which decisions by all of them need.

        Args:
            on_nonfinite: of the watch.

        Raises:
            RanksError: another rank does not come, or watches in another way.
        """
        size = self.rank.world_size
        # A restart by torchrun may come to the same store.
        key = f"{self._key}/{on_nonfinite}/{restart_count()}"
        self._store.add(key, 1)
        if not self._wait_for(lambda: self._store.add(key, 0) >= size):
            raise RanksError(
                f"on_nonfinite={on_nonfinite!r} needs esper.watch with this option in all {size} "
                f"ranks, because they decide together; after {WAIT_S:g} s some had not called it"
            )

    def leave_together(self) -> None:
        """Wait, for a few seconds at most, until every rank has recorded its end.

        Launchers kill the others as soon as one process has ended.
        """
        key = f"{self._key}/ends/{restart_count()}"
        with suppress(RuntimeError):  # the store has gone with another rank
            self._store.add(key, 1)
            self._wait_for(lambda: self._store.add(key, 0) >= self.rank.world_size, _LEAVE_S)

    def _has_come_first(self) -> bool:
        if restart_count():  # the folder of the processes before is there
            return not self._store.check([self._key]) and self._claims()
        return self._claims()

    def _claims(self) -> bool:
        return int(self._store.add(f"{self._key}/claims", 1)) == 1

    def _wait_for(self, is_so: Callable[[], bool], seconds: float = WAIT_S) -> bool:
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


def restart_count() -> int:
    """Return how often torchrun has started the processes of this job again."""
    given = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return int(given) if given.isdigit() else 0


def _store(rank: Rank) -> Any:
    """Return the store at which ranks meet.

    Raises:
        RanksError: there is none, or it cannot be reached.
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
        f"this is rank {rank.rank} of {rank.world_size}, and nothing connects it with the others: "
        "call esper.watch after torch.distributed.init_process_group, or start the script with "
        "torchrun"
    )

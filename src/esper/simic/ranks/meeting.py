"""Start of distributed training: ranks connect through the launcher's key-value store.

`torchrun` serves a store that survives restarts of its ranks; without torchrun, rank 0 serves one.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec
import torch
import torch.distributed as dist

from esper.leyline.errors import EsperError
from esper.simic.ranks.collectives import COLLECTIVE_TIMEOUT, Ranks
from esper.simic.ranks.peers import Hub, Listener, RankName, Spoke, own_name

#: Seconds in which all ranks must have started.
START_SECONDS: Final = 300.0
#: Seconds that rank 0, if it serves the store, waits until the others have read that no run starts.
_REFUSAL_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.05
_RUN, _ANNOUNCEMENT, _HEARD = "run", "announcement", "heard"


class MeetingError(EsperError, RuntimeError):
    """The ranks could not connect to each other; the message says what is missing."""


class Refused(EsperError):
    """Rank 0 could not prepare the run, and has reported why.

    Args:
        is_complete: whether the reason is that the run is complete.
    """

    def __init__(self, is_complete: bool) -> None:
        super().__init__("rank 0 could not prepare the run")
        self.is_complete = is_complete


class RunAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """Announcement of rank 0 to the others: the run, and how to connect to rank 0.

    Attributes:
        run: absolute path of the run's directory; empty if it could not be prepared.
        is_complete: whether the reason for that is that the run is complete.
        config: content of the run's settings file.
        pid, machine: the process of rank 0.
        port, token: port and token of rank 0's `Hub`.
    """

    run: str
    is_complete: bool = False
    config: str = ""
    pid: int = 0
    machine: str = ""
    port: int = 0
    token: str = ""


@dataclass(frozen=True)
class Launch:
    """The launcher's environment variables for this process.

    Attributes:
        rank, world_size, local_rank: as torchrun counts them.
        address, port: of the store.
        is_served: whether the launcher serves the store.
        restart: how often the launcher has restarted the ranks.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int
    is_served: bool
    restart: int


def launch_of_environment(rank: int, world_size: int, local_rank: int) -> Launch:
    """Read the launcher's environment variables.

    Raises:
        MeetingError: a variable is missing or not a number.
    """
    given = os.environ
    try:
        return Launch(
            rank,
            world_size,
            local_rank,
            address=given["MASTER_ADDR"],
            port=int(given["MASTER_PORT"]),
            is_served=given.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            restart=int(given.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )
    except (KeyError, ValueError) as error:
        raise MeetingError(
            f"RANK and WORLD_SIZE are set, but {error.args[0]!r} is missing or not a number: start "
            "with torchrun, or set MASTER_ADDR and MASTER_PORT as well"
        ) from error


class Meeting:
    """Meeting of the ranks: the key-value store through which they connect.

    Args:
        launch: the launcher's settings.

    Raises:
        MeetingError: the store cannot be reached.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        try:
            store = dist.TCPStore(
                launch.address,
                launch.port,
                is_master=launch.rank == 0 and not launch.is_served,
                timeout=timedelta(seconds=START_SECONDS),
                wait_for_workers=False,
            )
        except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
            raise MeetingError(
                f"rank {launch.rank} cannot reach the others at {launch.address}:{launch.port}: "
                f"{error}"
            ) from error
        self._lasting = dist.PrefixStore("esper", store)
        self._store = dist.PrefixStore(f"esper/{launch.restart}", store)

    # Which run

    def run_before_restart(self) -> str:
        """Return the path of the run that the ranks trained before a restart; empty if unknown."""
        if not self._lasting.check([_RUN]):
            return ""
        return self._lasting.get(_RUN).decode()

    def announce(self, announcement: RunAnnouncement) -> None:
        """Announce the run to the other ranks; called only by rank 0."""
        if announcement.run:
            self._lasting.set(_RUN, announcement.run)
        self._store.set(_ANNOUNCEMENT, msgspec.json.encode(announcement).decode())
        if not announcement.run and not self._launch.is_served:
            # The store ends with this process, so wait until the others have read it.
            end = time.monotonic() + _REFUSAL_SECONDS
            others = self._launch.world_size - 1
            while self._store.add(_HEARD, 0) < others and time.monotonic() < end:
                time.sleep(_LOOK_SECONDS)

    def wait_for_run(self) -> RunAnnouncement:
        """Wait for the announcement of rank 0.

        Raises:
            Refused: rank 0 has reported an error.
            MeetingError: there is no announcement within `START_SECONDS`.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                is_there = self._store.check([_ANNOUNCEMENT])
            except RuntimeError as error:
                raise MeetingError(f"rank 0 ended before training began: {error}") from error
            if is_there:
                announcement = msgspec.json.decode(
                    self._store.get(_ANNOUNCEMENT), type=RunAnnouncement
                )
                if not announcement.run:
                    self._store.add(_HEARD, 1)
                    raise Refused(announcement.is_complete)
                return announcement
            time.sleep(_LOOK_SECONDS)
        raise MeetingError(f"rank 0 did not announce a run within {START_SECONDS:.0f} s")

    # Connections

    def hub(self, listener: Listener) -> Hub:
        """Return rank 0's end of the connections."""
        return Hub(own_name(0), self._launch.world_size, listener)

    def spoke(self, announcement: RunAnnouncement, listener: Listener) -> Spoke:
        """Return another rank's connection to rank 0.

        Raises:
            MeetingError: rank 0 cannot be reached.
        """
        try:
            return Spoke(
                own_name(self._launch.rank),
                RankName(0, announcement.pid, announcement.machine),
                self._launch.address,
                announcement.port,
                announcement.token,
                listener,
            )
        except OSError as error:
            raise MeetingError(
                f"rank {self._launch.rank} cannot reach rank 0 on {announcement.machine}: {error}"
            ) from error

    def join(self, device_name: str, check: Callable[[], None]) -> Ranks:
        """Initialise the process group of torch, with all ranks.

        Args:
            device_name: the run's setting `device`: "auto", "cpu" or "cuda".
            check: called while this rank waits for the others; raises if the run is over.

        Raises:
            MeetingError: the process group cannot be initialised.
        """
        launch = self._launch
        device, has_nccl = _device_of(device_name, launch.local_rank)
        own = f"rank {launch.rank} on {own_name(0).machine} ({device})"
        self._store.set(f"rank {launch.rank}", f"{int(has_nccl)} {own}")
        try:
            descriptions = [
                self._store.get(f"rank {each}").decode() for each in range(launch.world_size)
            ]
            # All ranks must use the same backend.
            every_nccl = all(text.startswith("1") for text in descriptions)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if every_nccl else "gloo",
                store=self._store,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=COLLECTIVE_TIMEOUT,
            )
        except RuntimeError as error:
            raise MeetingError(
                f"the process group of the ranks cannot be initialised: {error}"
            ) from error
        return Ranks(device, check, [text[2:] for text in descriptions], has_nccl=every_nccl)

    def leave(self) -> None:
        """Leave the process group of torch; every rank must call this."""
        dist.destroy_process_group()


def _device_of(name: str, local_rank: int) -> tuple[torch.device, bool]:
    """Return the device of a rank, and whether it can use NCCL.

    NCCL does not support two ranks on one GPU; with fewer GPUs than ranks, gloo is used.
    """
    gpus = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if not gpus:
        return torch.device("cpu"), False
    torch.cuda.set_device(local_rank % gpus)
    device = torch.device("cuda", local_rank % gpus)
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", str(local_rank + 1)))
    return device, dist.is_nccl_available() and on_this_machine <= gpus

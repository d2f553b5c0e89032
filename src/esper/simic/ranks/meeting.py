"""How the ranks of a launch find one another: the launcher's store, and what rank 0 says there.

`torchrun` serves a store that outlives restarts of its ranks; without it rank 0 serves one.
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
_LOOK_SECONDS: Final = 0.05
_RUN, _TOLD = "run", "told"


class MeetingError(EsperError, RuntimeError):
    """The ranks did not find one another; the message says what is missing."""


class Refused(EsperError):
    """Rank 0 could not prepare the run, and has said why."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What rank 0 tells the others: the run, and how to reach its process.

    Attributes:
        run: absolute path of the run's directory; empty if it could not be prepared.
        config: content of the run's settings file.
        pid, machine: the process of rank 0.
        port, token: those of its `Hub`.
    """

    run: str
    config: str = ""
    pid: int = 0
    machine: str = ""
    port: int = 0
    token: str = ""


@dataclass(frozen=True)
class Launch:
    """What the launcher says of this process, by its environment variables.

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
    """Return what the launcher's environment variables say.

    Raises:
        MeetingError: a variable is missing or is no number.
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
            f"RANK and WORLD_SIZE are set, and {error.args[0]!r} is missing or no number: start "
            "with torchrun, or set MASTER_ADDR and MASTER_PORT, too"
        ) from error


class Meeting:
    """The store of a launch.

    Args:
        launch: what the launcher says.

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
                f"rank {launch.rank} does not reach the others at {launch.address}:{launch.port}: "
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

    def tell(self, told: Told) -> None:
        """Tell the other ranks of the run; only rank 0 does."""
        if told.run:
            self._lasting.set(_RUN, told.run)
        self._store.set(_TOLD, msgspec.json.encode(told).decode())

    def hear(self) -> Told:
        """Wait for what rank 0 tells.

        Raises:
            Refused: rank 0 has reported an error.
            MeetingError: it says nothing.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                is_there = self._store.check([_TOLD])
            except RuntimeError as error:
                raise MeetingError(f"rank 0 ended before training began: {error}") from error
            if is_there:
                told = msgspec.json.decode(self._store.get(_TOLD), type=Told)
                if not told.run:
                    raise Refused("rank 0 could not prepare the run")
                return told
            time.sleep(_LOOK_SECONDS)
        raise MeetingError(f"rank 0 said nothing for {START_SECONDS:.0f} s")

    # Connections

    def hub(self, listener: Listener) -> Hub:
        """Return rank 0's end of the connections."""
        return Hub(own_name(0), self._launch.world_size, listener)

    def spoke(self, told: Told, listener: Listener) -> Spoke:
        """Return another rank's connection to rank 0.

        Raises:
            MeetingError: rank 0 cannot be reached.
        """
        try:
            return Spoke(
                own_name(self._launch.rank),
                RankName(0, told.pid, told.machine),
                self._launch.address,
                told.port,
                told.token,
                listener,
            )
        except OSError as error:
            raise MeetingError(
                f"rank {self._launch.rank} does not reach rank 0 on {told.machine}: {error}"
            ) from error

    def join(self, device_name: str, check: Callable[[], None]) -> Ranks:
        """Initialise the process group of torch, with all ranks.

        Args:
            device_name: the run's setting: "auto", "cpu" or "cuda".
            check: called while this rank waits for the others; raises if the run is over.

        Raises:
            MeetingError: the ranks do not come together.
        """
        launch = self._launch
        device, has_nccl = _device_of(device_name, launch.local_rank)
        own = f"rank {launch.rank} on {own_name(0).machine} ({device})"
        self._store.set(f"rank {launch.rank}", f"{int(has_nccl)} {own}")
        try:
            said = [self._store.get(f"rank {each}").decode() for each in range(launch.world_size)]
            # All ranks must take the same backend.
            every_nccl = all(text.startswith("1") for text in said)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if every_nccl else "gloo",
                store=self._store,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=COLLECTIVE_TIMEOUT,
            )
        except RuntimeError as error:
            raise MeetingError(f"the ranks do not come together: {error}") from error
        return Ranks(device, check, [text[2:] for text in said], has_nccl=every_nccl)


def _device_of(name: str, local_rank: int) -> tuple[torch.device, bool]:
    """Return the device of a rank, and whether it can use NCCL.

    NCCL refuses two ranks on one GPU: where there are fewer GPUs than ranks, gloo serves.
    """
    gpus = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if not gpus:
        return torch.device("cpu"), False
    torch.cuda.set_device(local_rank % gpus)
    device = torch.device("cuda", local_rank % gpus)
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", str(local_rank + 1)))
    return device, dist.is_nccl_available() and on_this_machine <= gpus

"""Collective operations between the ranks of a run, and the division of hosts among them.

Every rank makes the same calls in the same order with messages of the same size, independent of its
values. While a rank waits for the others, it checks whether one of them has ended, so no call waits
for a timeout.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from esper.leyline.errors import EsperError
from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.ranks.host_rows import Arrays, packed, unpacked
from esper.simic.ranks.sighting_exchange import SLAB_BYTES, decoded, encoded, merged

#: Timeout of a collective operation. The end of a rank is detected much earlier by its connection.
COLLECTIVE_TIMEOUT: Final = timedelta(days=7)
#: Seconds to wait for the reason after a collective operation failed.
_REASON_SECONDS: Final = 5.0
_PAUSES: Final = (50e-6, 2e-3)  # first and longest pause between two checks, in seconds


class RankLostError(EsperError, RuntimeError):
    """A rank ended while others were training; the message says which."""


@dataclass(frozen=True)
class Share:
    """The hosts of a batch that one rank trains.

    In a batch with fewer hosts than ranks, a rank without hosts trains a copy of the first host, so
    every rank makes the same calls. The rows of the copy are dropped.

    Attributes:
        counts: number of hosts of each rank.
        rank: the rank.
    """

    counts: tuple[int, ...]
    rank: int

    @property
    def total(self) -> int:
        """Number of hosts in the batch."""
        return sum(self.counts)

    @property
    def is_copy(self) -> bool:
        """Whether the rank only has a copy of the first host."""
        return self.counts[self.rank] == 0

    @property
    def own(self) -> slice:
        """The hosts of this rank."""
        if self.is_copy:
            return slice(0, 1)
        first = sum(self.counts[: self.rank])
        return slice(first, first + self.counts[self.rank])


def share_of(hosts: int, rank: int, world_size: int) -> Share:
    """Return the hosts of a rank; the numbers of hosts per rank differ by at most one."""
    bounds = [hosts * each // world_size for each in range(world_size + 1)]
    counts = tuple(bounds[each + 1] - bounds[each] for each in range(world_size))
    return Share(counts, rank)


class Ranks:
    """Communication of this process with the other ranks of its run.

    The process group of torch must be initialised.

    Args:
        device: device of the agent.
        check: called while waiting for the others; raises if the run is over.
        names: name of each rank, for messages.
        has_nccl: whether tensors on a GPU go over NCCL; over gloo otherwise.
    """

    def __init__(
        self,
        device: torch.device,
        check: Callable[[], None],
        names: Sequence[str],
        *,
        has_nccl: bool = False,
    ) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.names = tuple(names)
        self._check = check
        self._device = device if has_nccl else torch.device("cpu")

    def share(self, hosts: int) -> Share:
        """Return this rank's share of a number of hosts."""
        return share_of(hosts, self.rank, self.world_size)

    # Agreement

    def is_any(self, flag: bool) -> bool:
        """Return whether the flag is set in any rank."""
        flags = torch.tensor([flag], dtype=torch.uint8)
        self._wait(dist.all_reduce(flags, dist.ReduceOp.MAX, async_op=True))
        return bool(flags[0])

    def any_of(self, flags: Tensor) -> Tensor:
        """Return which flags are set in any rank, of the same shape, type and device."""
        joined = flags.to(self._device, torch.uint8, copy=True).reshape(-1)
        self._wait(dist.all_reduce(joined, dist.ReduceOp.MAX, async_op=True))
        return joined.reshape(flags.shape).to(flags.device, flags.dtype)

    def joined(self, own: Sequence[NonfiniteSighting]) -> list[NonfiniteSighting]:
        """Return the sightings of all ranks, merged; the same sighting of several ranks is one."""
        return merged(self.by_rank(own))

    def by_rank(self, own: Sequence[NonfiniteSighting]) -> list[list[NonfiniteSighting]]:
        """Return the sightings of each rank; only the first ones if there are very many."""
        slabs = self._gathered(torch.frombuffer(bytearray(encoded(own)), dtype=torch.uint8))
        assert slabs.shape[1] == SLAB_BYTES
        return [decoded(bytes(slab)) for slab in slabs.numpy()]

    # Data

    def gathered_hosts(self, own: Arrays, share: Share) -> dict[str, np.ndarray]:
        """Return the rows of all hosts, in the order of the hosts.

        Args:
            own: arrays with a row for each host of this rank, each `[n, …]`.
            share: the hosts of this rank.
        """
        rows = packed(own)
        largest = max(share.counts)
        padded = np.zeros((max(largest, 1), rows.shape[1]), dtype=np.uint8)
        padded[: len(rows)] = rows
        gathered = self._gathered(torch.from_numpy(padded).reshape(-1)).numpy()
        parts = gathered.reshape(self.world_size, *padded.shape)
        of_hosts = [part[:count] for part, count in zip(parts, share.counts, strict=True)]
        return unpacked(np.concatenate(of_hosts), own)

    def first_number(self, number: int) -> int:
        """Return rank 0's number."""
        announced = torch.tensor([number], dtype=torch.int64)
        self._wait(dist.broadcast(announced, 0, async_op=True))
        return int(announced[0])

    def first_bytes(self, data: bytes | None) -> bytes:
        """Return rank 0's bytes; other ranks pass None."""
        size = self.first_number(len(data or b""))
        content = bytearray(data or bytes(size))
        if size:
            buffer = torch.frombuffer(content, dtype=torch.uint8)
            self._wait(dist.broadcast(buffer, 0, async_op=True))
        return bytes(content)

    def numbers(self, own: int) -> list[int]:
        """Return the numbers that the ranks passed, by rank; each fits an int64."""
        gathered: list[int] = self._gathered(torch.tensor([own], dtype=torch.int64))[:, 0].tolist()
        return gathered

    def _gathered(self, own: Tensor) -> Tensor:
        """Return a tensor `[size]` of each rank: `[world_size, size]`."""
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        self._wait(dist.all_gather(parts, own, async_op=True))
        return torch.stack(parts)

    def _wait(self, work: Any) -> None:
        """Wait for a collective operation.

        Raises:
            RankLostError: it failed.
            Exception: raised by `check`.
        """
        pause, longest = _PAUSES
        try:
            while not work.is_completed():
                self._check()
                time.sleep(pause)
                pause = min(1.5 * pause, longest)
            work.wait()
        except RuntimeError as error:
            if isinstance(error, EsperError):
                raise
            # The end of a connection may be detected before the end of its rank.
            end = time.monotonic() + _REASON_SECONDS
            while time.monotonic() < end:
                self._check()
                time.sleep(longest)
            raise RankLostError(f"the connection to another rank ended ({error})") from error

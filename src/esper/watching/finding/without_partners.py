"""Lets one process of a distributed training repeat a minibatch by itself.

Its partners do not repeat it: a collective would wait for them for ever, or take part in theirs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from esper.leyline.errors import EsperError
from esper.leyline.quantities import SHARED_BY_RANKS
from esper.watching.finding.cannot_run_again import CannotRunAgainError
from esper.watching.model.shards import is_shared

_COLLECTIVES: Final = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "c10d_functional")
FROM_ANOTHER_RANK: Final = "what this rank computed is finite: it came from another rank"
_T = TypeVar("_T")
REFUSED: Final = "a second run would take part in a collective without the other ranks"


def has_partners() -> bool:
    """Return whether other processes train together with this one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _HasQuantity(Protocol):
    @property
    def quantity(self) -> str: ...


def is_from_partner(found: Iterable[_HasQuantity]) -> bool:
    """Return whether what was found, and not seen again here, may come from another process."""
    return has_partners() and SHARED_BY_RANKS.issuperset(one.quantity for one in found)


def possible_ones(
    repetitions: list[_T], optimizer: torch.optim.Optimizer | None, outputs: Sequence[object]
) -> list[_T]:
    """Return the repetitions of a minibatch that are possible; the last one only calls the model.

    After an exception, which comes without a step and without an output, DDP may still expect the
    gradients of the pass that it ended.

    Args:
        repetitions: of the minibatch.
        optimizer: that is about to step; None if there is none.
        outputs: of the output layer that are not finite.
    """
    is_broken_off = optimizer is None and not outputs
    return repetitions[-1:] if is_broken_off and has_partners() else repetitions


def computes_alone(models: Sequence[nn.Module]) -> bool:
    """Return whether each process has all that its models compute with, as under DDP."""
    return not any(is_shared(one) for model in models for one in model.parameters())


class _CollectiveError(EsperError):
    """A repetition came to a collective."""


class _NoCollectives(TorchDispatchMode):
    """Refuses every collective of PyTorch."""

    is_refused = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "namespace", "") in _COLLECTIVES:
            self.is_refused = True
            raise _CollectiveError(REFUSED)
        return func(*args, **(kwargs or {}))


@contextmanager
def without_partners() -> Iterator[None]:
    """Keep a repetition inside it in this process; nothing changes where it trains alone.

    `DistributedDataParallel` only calls its module. It ignores the gradients then, because it did
    not see the call.

    Raises:
        CannotRunAgainError: the repetition came to a collective, also if it caught that error.
    """
    if not has_partners():
        yield
        return
    original = DistributedDataParallel.forward

    def forward(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    refusing = _NoCollectives()
    setattr(DistributedDataParallel, "forward", forward)  # noqa: B010 - mypy refuses the other
    try:
        with refusing:
            yield
    finally:
        setattr(DistributedDataParallel, "forward", original)  # noqa: B010 - as above
    if refusing.is_refused:
        raise CannotRunAgainError(REFUSED)

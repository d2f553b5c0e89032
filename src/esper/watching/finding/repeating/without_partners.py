"""Repeats a minibatch in one process of a distributed training, without communication.

The other processes do not repeat it. A collective call would wait for them forever, or would be
matched with one of their other calls.
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
from esper.watching.finding.repeating.cannot_run_again import CannotRunAgainError
from esper.watching.model.shards import is_shared

_COLLECTIVES: Final = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "c10d_functional")
FROM_ANOTHER_RANK: Final = "this rank computed only finite values; the fault came from another rank"
_T = TypeVar("_T")
REFUSED: Final = "a second run would call a collective without the other ranks"


def has_partners() -> bool:
    """Return whether other processes train together with this one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _HasQuantity(Protocol):
    @property
    def quantity(self) -> str: ...


def is_from_partner(found: Iterable[_HasQuantity]) -> bool:
    """Return whether findings that a repetition did not show may come from another process."""
    return has_partners() and SHARED_BY_RANKS.issuperset(one.quantity for one in found)


def possible_ones(
    repetitions: list[_T], optimizer: torch.optim.Optimizer | None, outputs: Sequence[object]
) -> list[_T]:
    """Return the repetitions of a minibatch that are possible.

    After an exception, there is neither a step nor an output. DDP may then still expect the
    gradients of the interrupted pass, so only the call of the model can be repeated.

    Args:
        repetitions: repetitions of the minibatch; the last one only calls the model.
        optimizer: the optimizer that is about to step; None if there is none.
        outputs: non-finite outputs of the output layer.
    """
    is_broken_off = optimizer is None and not outputs
    return repetitions[-1:] if is_broken_off and has_partners() else repetitions


def computes_alone(models: Sequence[nn.Module]) -> bool:
    """Return whether each process has all parameters of its models, as under DDP."""
    return not any(is_shared(one) for model in models for one in model.parameters())


class _CollectiveError(EsperError):
    """A repetition called a collective."""


class _NoCollectives(TorchDispatchMode):
    """Raises an exception at every collective of PyTorch."""

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
    """Prevent communication with other processes within the context.

    In a process that trains alone, nothing changes. Otherwise `DistributedDataParallel` only calls
    its module; it then ignores the gradients, because it did not register the call.

    Raises:
        CannotRunAgainError: the repetition called a collective, even if it caught the error.
    """
    if not has_partners():
        yield
        return
    original = DistributedDataParallel.forward

    def forward(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    refusing = _NoCollectives()
    setattr(DistributedDataParallel, "forward", forward)  # noqa: B010 - mypy rejects the assignment
    try:
        with refusing:
            yield
    finally:
        setattr(DistributedDataParallel, "forward", original)  # noqa: B010 - as above
    if refusing.is_refused:
        raise CannotRunAgainError(REFUSED)

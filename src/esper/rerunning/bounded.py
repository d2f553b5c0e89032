"""Limits the memory that a model built from an untrusted plan can use."""

from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esper.simic.replay.incidents import IncidentError

#: Operations that create a tensor with the sizes in their first argument.
_MAKING: Final = frozenset({"empty", "zeros", "ones", "full", "rand", "randn"})
#: Number of elements that a library may create in addition to the weights.
_ALLOWANCE: Final = 1 << 20


class BoundedMemory(TorchDispatchMode):
    """While it is active, tensors can be created only up to a limit.

    Args:
        weights: tensors of the capsule; the limit is about twice their number of elements.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._left = 2 * sum(tensor.numel() for tensor in weights) + _ALLOWANCE

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if str(func).split(".")[1] in _MAKING and args and isinstance(args[0], (list, tuple)):
            size = 1
            for length in args[0]:
                size *= int(length)
            self._left -= size
            if self._left < 0:
                raise IncidentError(
                    "the capsule cannot be replayed: its plan's model is larger than its weights"
                )
        return func(*args, **(kwargs or {}))

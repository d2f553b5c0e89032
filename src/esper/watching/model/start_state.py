"""A copy of the state at the start of an update, from which the update can be repeated later."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from esper.leyline.errors import EsperError
from esper.watching.model.shards import local


class _TooLargeError(EsperError):
    """The copy would take more than the limit."""


class StartState:
    """A copy of weights, optimizer states and random generator states.

    Each copy reuses the memory of the previous one.

    Args:
        models: the models whose parameters and buffers are copied.
        optimizers: the optimizers whose states are copied.
        limit: maximum size in bytes; a larger state is not copied.

    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        limit: int,
    ) -> None:
        self._models = models
        self._optimizers = optimizers
        self._copies: dict[Any, Tensor] = {}
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._left = limit
        self._taken: dict[str, Any] = {}
        self._random: dict[str, Any] = {}

    @property
    def is_taken(self) -> bool:
        """Whether there is a copy: not before the first, or if it would be above the limit."""
        return bool(self._taken)

    @property
    def values(self) -> dict[str, Any]:
        """The copied state as tensors and plain values; empty if there is none."""
        return {**self._taken, "random": _as_tensors(self._random)} if self._taken else {}

    def take(self) -> None:
        """Copy the current state."""
        if self._left < 0:
            return
        try:
            self._taken, self._random = self._take(), _random_states()
        except _TooLargeError:
            self._taken = {}
            self._copies.clear()
        self._pending.clear()

    def _take(self) -> dict[str, Any]:
        values = {
            "weights": [
                {
                    name: self._copied(("weight", number, name), tensor)
                    for name, tensor in model.state_dict(keep_vars=True).items()
                    if isinstance(tensor, Tensor)
                }
                for number, model in enumerate(self._models)
            ],
            "optimizers": [
                self._of_optimizer(number, optimizer)
                for number, optimizer in enumerate(self._optimizers)
            ],
        }
        if self._pending:
            targets, sources = zip(*self._pending, strict=True)
            with torch.no_grad():
                torch._foreach_copy_(targets, sources)
        return values

    def _of_optimizer(self, number: int, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        return {
            "state": {
                index: {
                    name: self._copied(("optimizer", number, index, name), value)
                    if isinstance(value, Tensor)
                    else value
                    for name, value in of_parameter.items()
                }
                for index, of_parameter in state["state"].items()
            },
            "groups": [_plain(group) for group in state["param_groups"]],
        }

    def _copied(self, key: Any, tensor: Tensor) -> Tensor:
        source = local(tensor.detach())
        kept = self._copies.get(key)
        if kept is None or kept.shape != source.shape or kept.dtype != source.dtype:
            self._left += 0 if kept is None else kept.nbytes
            self._left -= source.nbytes
            if self._left < 0:
                raise _TooLargeError
            kept = self._copies[key] = source.clone()
        else:
            self._pending.append((kept, source))
        return kept


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of a parameter group; a learning rate may be a tensor."""
    values = {
        name: value.item() if isinstance(value, Tensor) else value
        for name, value in group.items()
        if name != "params"
    }
    return {
        name: value
        for name, value in values.items()
        if value is None or isinstance(value, (bool, int, float, str, tuple))
    }


def _random_states() -> dict[str, Any]:
    """Return the states of the generators of torch, NumPy and Python, as they give them."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=True),
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _as_tensors(states: dict[str, Any]) -> dict[str, Any]:
    """Return the states of generators as tensors and numbers."""
    _, keys, position, has_gauss, gauss = states["numpy"]
    version, internal, next_gauss = states["python"]
    return states | {
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss],
        "python": [version, torch.tensor(internal), next_gauss],
    }

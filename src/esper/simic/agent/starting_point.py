"""A copy of weights, optimizer state and loss scale, from which an update can be repeated."""

import torch
from torch import Tensor

from esper.simic.agent.loss_scale import LossScale


class StartingPoint:
    """One copy of the weights, the optimizer's state and the loss scale; every `keep` reuses it.

    It takes no memory before the first `keep`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, loss_scale: LossScale) -> None:
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._copies: list[Tensor] = []
        self._moments: dict[Tensor, dict[str, Tensor]] = {}
        self._scale = {name: each.clone() for name, each in loss_scale.state_dict().items()}

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the current state."""
        if not self._copies:
            self._copies = [torch.empty_like(parameter) for parameter in self._parameters]
        copies, originals = [*self._copies], [*self._parameters]
        # Moments from before must not stay for a parameter that has none now.
        self._moments = {
            parameter: self._moments.get(parameter)
            or {name: torch.empty_like(value) for name, value in state.items()}
            for parameter, state in self._optimizer.state.items()
        }
        for parameter, state in self._optimizer.state.items():
            copies += self._moments[parameter].values()
            originals += state.values()
        torch._foreach_copy_(copies, originals)  # one call: a third of the time of many
        # Cloned, since later changes in place must not reach the copy. Without fp16, the counters
        # never change.
        now = self._loss_scale.state_dict()
        changing = now if self._loss_scale.enabled else ("scale",)
        self._scale |= {name: now[name].clone() for name in changing}

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to the copied state."""
        for copy, parameter in zip(self._copies, self._parameters, strict=True):
            parameter.copy_(copy)
        for parameter, state in list(self._optimizer.state.items()):
            if parameter not in self._moments:
                del self._optimizer.state[parameter]  # made by the optimizer's first step, since
                continue
            for name, value in self._moments[parameter].items():
                state[name].copy_(value)
        self._loss_scale.load_state_dict(
            {name: value.clone() for name, value in self._scale.items()}
        )

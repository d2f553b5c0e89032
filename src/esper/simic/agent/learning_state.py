"""Weights, optimizer state and loss scale, with the copies that an agent can go back to."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from esper.simic.agent.detection.anatomy import Anatomy, anatomy_of
from esper.simic.agent.detection.codes import StateCodes, code_of
from esper.simic.agent.detection.readers import state_codes
from esper.simic.agent.figures import state_figures
from esper.simic.agent.flat_parameters import FlatParameters
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.starting_point import StartingPoint
from esper.tamiyo.policy import RecurrentPolicy

#: What Adam stores for each parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")


class LearningState:
    """Weights, optimizer state and loss scale of an agent.

    It keeps two copies: of the state before the last update, and of the last good state. A state is
    good if a good update left it, and if it is still finite when the next update starts.

    Attributes:
        known_codes: codes of parameters that are not finite, do no harm and were reported, `[P]`,
            on the CPU.
    """

    def __init__(
        self,
        policy: RecurrentPolicy,
        parameters: FlatParameters,
        optimizer: torch.optim.Optimizer,
        loss_scale: LossScale,
    ) -> None:
        self._policy = policy
        self._parameters = parameters
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._start = StartingPoint(optimizer, loss_scale)
        self._last_good: StartingPoint | None = None
        self._last_was_good = True
        self.known_codes = torch.zeros(parameters.flat.shape, dtype=torch.uint8)
        self._known_on_device: Tensor | None = None  # None if there are none

    @cached_property
    def anatomy(self) -> Anatomy:
        """Owners and places of all parameters."""
        return anatomy_of(self._policy, self._parameters)

    # Before and after an update

    def keep(self) -> None:
        """Copy the state of now, as that before an update."""
        self._start.keep()

    def restore(self) -> None:
        """Go back to the state before the last update."""
        self._start.restore()

    def end_update(self, *, start_was_sound: bool, is_good: bool) -> None:
        """Decide which state `roll_back` returns to.

        Args:
            start_was_sound: whether everything was finite when the update started.
            is_good: whether the update was good.
        """
        if start_was_sound and self._last_was_good:
            self._last_good, self._start = (
                self._start,
                self._last_good or StartingPoint(self._optimizer, self._loss_scale),
            )
        self._last_was_good = is_good

    def roll_back(self) -> bool:
        """Go back to the last good state, if there is one.

        That is the state after the last good update; if that broke before the next update began,
        the state after the good update before it. Call it after an update that was not good.

        Returns:
            Whether there is one; if not, nothing has changed.
        """
        if self._last_good is None:
            return False
        self._last_good.restore()
        self._forget_known()
        self._last_was_good = True
        return True

    def go_back_to(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`; generators in it are ignored."""
        self.load_state_dict(state)
        self._last_was_good = True

    def tensors(self) -> list[Tensor]:
        """Return parameters, moments, Adam's step counter and the loss scale, without copies."""
        state = self._optimizer.state.get(self._parameters.flat, {})
        moments = [state[name] for name in sorted(state)]
        return [self._parameters.flat, *moments, self._loss_scale.scale]

    # Is it finite?

    def figures(self) -> Tensor:
        """Return figures that are not finite if the state is not, on the device: `[5]`."""
        state = self._optimizer.state.get(self._parameters.flat, {})
        return state_figures(
            self._parameters.flat, state, self._loss_scale.scale, self._known_on_device
        )

    def codes(self) -> StateCodes:
        """Return the codes of parameters, moments and loss scale."""
        state = self._optimizer.state.get(self._parameters.flat, {})
        return state_codes(self._parameters.flat, state, self._loss_scale.scale)

    def unsound(self) -> list[str]:
        """Return the names of everything in the state that makes further updates useless.

        Those are parameters and moments that hold a NaN or an Inf, second moments below 0, Adam's
        step counter, and the loss scale. A bias of -inf by which a head forbids a choice is legal
        if it broke no update.
        """
        codes = self.codes()
        is_known = codes.parameters == self.known_codes.to(codes.parameters.device)
        is_legal = self.anatomy.forbidding_biases(codes.parameters) & is_known
        named = {
            "": codes.parameters.masked_fill(is_legal, 0),
            "exp_avg of ": codes.first_moment,
            "exp_avg_sq of ": codes.second_moment,
        }
        parameters = self._parameters
        names = [
            f"{prefix}{name}"
            for prefix, flat in named.items()
            for name, part in zip(parameters.names, parameters.split(flat), strict=True)
            if part.any()
        ]
        names += ["the optimizer's step counter"] if codes.step else []
        return names + (["the loss scale"] if codes.loss_scale else [])

    def moments_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return views of Adam's moments of a parameter of the policy; empty before a step."""
        state = self._optimizer.state.get(self._parameters.flat)
        if not state:
            return {}
        place = [id(known) for known in self._parameters.parameters].index(id(parameter))
        return {name: self._parameters.split(state[name])[place] for name in MOMENTS}

    def remember_known(self, harmless: Tensor) -> None:
        """Remember the codes `[P]` of parameters that need not be reported again."""
        self.known_codes = harmless
        self._known_on_device = (
            harmless.to(self._parameters.flat.device) if harmless.any() else None
        )

    def _forget_known(self) -> None:
        """Forget them, except the biases of -inf by which the current state forbids choices."""
        codes = code_of(self._parameters.flat.detach()).cpu()
        is_legal = self.anatomy.forbidding_biases(codes)
        self.remember_known(codes.masked_fill(~is_legal, 0))

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer state and loss scale."""
        return {
            "policy": self._policy.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "loss_scale": self._loss_scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._policy.load_state_dict(state["policy"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss_scale.load_state_dict(state["loss_scale"])
        self._forget_known()

"""Prevents optimizer steps while a minibatch is repeated, and ends the repetition at a step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import optimizer as torch_optimizer

from esper.watching.model.step_arguments import Closure, closure_in, with_closure


class StepReached(BaseException):
    """Ends a second run at the optimizer's step. Not an Exception: no loop must catch it."""


class StepsLeftOut:
    """A context manager in which no optimizer of the process takes a step and no loss is scaled.

    Steps earlier in the minibatch, such as a critic's before its actor's, were already taken; their
    second call does nothing.

    Args:
        last: the optimizer whose step ends the run with `StepReached`; None: the first to step.
        seen: receives the gradients that this step would use.
        known: optimizers whose settings, such as the learning rate, are restored at the end. If
            there are none, the run ends after its first backward pass, because code after it may
            change weights.
        closure_rng: state of torch's generator for the call of the closure of the last step; None
            if its gradients are computed before the step.

    Attributes:
        is_reached: whether the run reached that step.
    """

    def __init__(
        self,
        last: torch.optim.Optimizer | None,
        seen: list[Tensor],
        known: Sequence[torch.optim.Optimizer] = (),
        closure_rng: Tensor | None = None,
    ) -> None:
        self._last = last
        self._closure_rng = closure_rng
        self._ends_at_backward = not any(isinstance(one, torch.optim.Optimizer) for one in known)
        self._of_autograd = {name: vars(torch.autograd)[name] for name in ("backward", "grad")}
        self.is_reached = False
        self._settings = [(group, dict(group)) for one in known for group in one.param_groups]
        self._seen = seen
        self._gradients: list[tuple[Tensor, Tensor | None]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        self._handles = [
            torch_optimizer.register_optimizer_step_pre_hook(self._before),
            torch_optimizer.register_optimizer_step_post_hook(self._after),
        ]
        if self._ends_at_backward:
            vars(torch.autograd).update(backward=self._backward, grad=self._grad)
        # Without scaling, a too high loss scale cannot be the cause of a non-finite value.

        def step(_scaler: Any, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
            self._before(optimizer)
            self._after()

        unscaled: dict[str, Callable[..., Any]] = {
            "scale": lambda _scaler, outputs: outputs,
            "unscale_": lambda *_: None,
            "step": step,
            "update": lambda *_: None,
        }
        self._methods = {name: getattr(GradScaler, name) for name in unscaled}
        for name, method in unscaled.items():
            setattr(GradScaler, name, method)

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self._ends_at_backward:
            vars(torch.autograd).update(self._of_autograd)
        for group, settings in self._settings:
            group.update(settings)
        for name, method in self._methods.items():
            setattr(GradScaler, name, method)

    def _backward(self, *args: Any, **kwargs: Any) -> None:
        self._of_autograd["backward"](*args, **kwargs)
        self.see_gradients()
        raise StepReached

    def _grad(self, *args: Any, **kwargs: Any) -> Any:
        gradients = self._of_autograd["grad"](*args, **kwargs)
        if kwargs.get("create_graph"):  # a part of the loss
            return gradients
        self._seen += [one for one in gradients if one is not None]
        raise StepReached

    def _before(
        self,
        optimizer: torch.optim.Optimizer,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        closure = closure_in(args, kwargs or {})
        if self._last is None or optimizer is self._last:
            if closure is not None:
                self._compute_gradients(closure)
            self._seen += [p.grad for p in parameters if p.grad is not None]
            self.is_reached = True
            raise StepReached
        self._gradients = [(parameter, parameter.grad) for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None  # optimizers skip parameters without a gradient
        if closure is None:
            return None
        computing = closure

        def without_gradients() -> Any:
            result = computing()
            for parameter in parameters:
                parameter.grad = None
            return result

        return with_closure(args, dict(kwargs or {}), without_gradients)

    def _compute_gradients(self, closure: Closure) -> None:
        """Call the closure of the last step, unless its gradients were computed before the step."""
        if self._closure_rng is not None:
            torch.set_rng_state(self._closure_rng)
        if self._closure_rng is not None or self._last is None:
            with torch.enable_grad():
                closure()

    def see_gradients(self) -> None:
        """Receive the gradients of a run that ended before the step."""
        groups = [] if self._last is None else self._last.param_groups
        parameters = [p for group in groups for p in group["params"]]
        self._seen += [p.grad for p in parameters if p.grad is not None]

    def _after(self, *_: object) -> None:
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

"""Finds out what broke in a minibatch and at which operation, when a watch saw trouble."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from esper.tracing.tracer import OperationTracer
from esper.watching.explaining import (
    Explanation,
    Found,
    Minibatch,
    evidence_in,
    loop_line_of,
    origin_in,
    run_again,
    traced,
)
from esper.watching.frames import is_plumbing, named_tensors
from esper.watching.heads import Head
from esper.watching.parts import Part
from esper.watching.recall import model_call, with_gradients_as
from esper.watching.rerun import (
    LOOP_FUNCTION,
    CannotRunAgainError,
    StepsLeftOut,
    everything_put_back,
)

#: The tracer of a second run, and its tensors by name.
_Repetition = tuple[OperationTracer, dict[str, Tensor]]
Replay = Literal["auto", "model", "off"]
_FRAMES: Final = 5  # whose variables are read


class Explainer:
    """Explains trouble, and repeats the minibatch at once.

    Args:
        models: that are trained.
        parts: their parameters with the owners.
        heads: of the models.
        replay: "auto" repeats the training loop's minibatch, or the call of the model where the
            loop must not run again; "model" only ever repeats the call of the model; "off" nothing.
        optimizers: of the models; one that is not given is known from its first bad step on.
        inputs: returns what the loop's tensors were computed from, such as rewards, by name.

    Attributes:
        seen: while a minibatch is repeated, the outputs and gradients that its repetition made.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        parts: Sequence[Part],
        heads: Sequence[Head],
        replay: Replay = "auto",
        optimizers: Sequence[torch.optim.Optimizer] = (),
        inputs: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._models = models
        self._parts = parts
        self._heads = heads
        self._replay = replay
        self._inputs = inputs
        self._optimizers = {id(optimizer): optimizer for optimizer in optimizers}
        self._of_parameter = {id(part.parameter): part for part in parts}
        self.seen: list[Tensor] | None = None

    def explain(
        self,
        stack: Sequence[FrameType],
        phase: str,
        minibatch: Minibatch,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Explanation:
        """Return what is not finite in a minibatch and is no consequence, and where it began.

        Args:
            stack: frames, innermost first.
            phase: "acting" or "update".
            minibatch: what is held of it; gradients only count at the optimizer's step.
            optimizer: the optimizer that is about to step; None before.
        """
        frames = [frame for frame in stack if not is_plumbing(frame.f_code.co_filename)]
        variables: dict[str, Tensor] = {}
        for frame in frames[_FRAMES::-1]:  # the loop's own before those that it calls
            for name, tensor in named_tensors(frame).items():
                variables.setdefault(name, tensor)
        if optimizer is not None:
            self._optimizers[id(optimizer)] = optimizer
        state = self._state()
        minibatch = replace(minibatch, gradients=self._gradients_for(optimizer, minibatch))
        inputs = {name: torch.as_tensor(values) for name, values in self._inputs().items()}
        found = evidence_in(self._parts, self._heads, minibatch, variables, state, inputs)
        named = {f"weight {part.name}": part.parameter.detach() for part in self._parts}
        named |= {f"variable {name}": tensor for name, tensor in variables.items()}
        if optimizer is not None:
            named |= {f"optimizer {name}": tensor for name, (_, tensor) in state.items()}
        # A loop that steps several optimizers began before the last step.
        rngs = minibatch.rngs if len(self._optimizers) > 1 else minibatch.rngs[:1]
        repetitions = self._repetitions(stack, frames, named, phase, optimizer, rngs)
        return self._with_origin(frames, found, repetitions)

    def _gradients_for(
        self, optimizer: torch.optim.Optimizer | None, minibatch: Minibatch
    ) -> list[Tensor | None]:
        """Return the gradients that an optimizer's step uses; others may be unfinished."""
        groups = [] if optimizer is None else optimizer.param_groups
        own = {id(parameter) for group in groups for parameter in group["params"]}
        return [
            gradient if id(part.parameter) in own else None
            for part, gradient in zip(self._parts, minibatch.gradients, strict=True)
        ]

    def weights(self) -> tuple[Found, ...]:
        """Return the parameters that are not finite."""
        nothing = Minibatch((), [None for _ in self._parts])
        return evidence_in(self._parts, self._heads, nothing, {}, self._state())

    def _with_origin(
        self,
        frames: Sequence[FrameType],
        found: tuple[Found, ...],
        repetitions: Sequence[Callable[[], _Repetition]],
    ) -> Explanation:
        reason = "repeating a minibatch is switched off"
        for repeat in repetitions:
            self.seen = []
            try:
                tracer, again = repeat()
                # What was found, as the second run made it; else what it made at its end.
                variables = [again[one.quantity] for one in found if one.quantity in again]
                origin = origin_in(tracer, _bad(variables)) or origin_in(tracer, _bad(self.seen))
            except CannotRunAgainError as error:
                reason = reason if reason.startswith("the loop") else str(error)
                continue
            finally:
                self.seen = None
            if origin is not None:
                operation = origin.operation
                function = operation.place.function
                if function == LOOP_FUNCTION:  # the loop's own function, run again under that name
                    own = (f for f in frames if f.f_code.co_filename == operation.place.file)
                    function = next((f.f_code.co_name for f in own), "")
                return Explanation(found, origin, loop_line_of(operation), function=function)
            reason = "when it was repeated, it was finite"
        return Explanation(found, why_no_origin=reason)

    def _repetitions(
        self,
        stack: Sequence[FrameType],
        frames: Sequence[FrameType],
        named: Mapping[str, Tensor],
        phase: str,
        optimizer: torch.optim.Optimizer | None,
        rngs: Sequence[Tensor],
    ) -> list[Callable[[], _Repetition]]:
        def loop(rng: Tensor | None) -> _Repetition:
            assert self.seen is not None
            steps = StepsLeftOut(optimizer, self.seen)
            return run_again(frames, self._models, named, steps, rng)

        def model() -> _Repetition:
            call = with_gradients_as(phase == "update", model_call(stack, self._models))
            tracer = traced(self._models, named)
            variables = [value for frame in frames[:1] for value in frame.f_locals.values()]
            # A refusal of NaN ends both calls alike.
            with everything_put_back(self._models, variables), tracer, suppress(Exception):
                call()
            return tracer, {}

        if self._replay == "off":
            return []
        if self._replay == "model" or phase != "update":
            return [model]
        return [*(partial(loop, rng) for rng in rngs or (None,)), model]

    def _state(self) -> dict[str, tuple[Part, Tensor]]:
        """Return what the optimizers keep of each parameter, by name."""
        return {
            f"{name} of {part.name}": (part, value)
            for optimizer in self._optimizers.values()
            for parameter, state in optimizer.state.items()
            if (part := self._of_parameter.get(id(parameter))) is not None
            for name, value in state.items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }


def _bad(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [one for one in tensors if not bool(one.detach().isfinite().all())]

"""Explains a bad minibatch: what became non-finite first, and at which operation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, Final, Literal

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.tracing.origin import Origin
from esper.tracing.recorded import OperationRecorder, RecordedMinibatch
from esper.tracing.storages import KnownTensors
from esper.tracing.tracer import OperationTracer
from esper.watching.checks.found import Found, Look, look_of
from esper.watching.checks.looks import kinds_of
from esper.watching.finding.beginning import Owners, as_it_began
from esper.watching.finding.bystanders import causes_first, masks_last
from esper.watching.finding.child.forked import Apart, apart
from esper.watching.finding.explaining import (
    Explanation,
    Minibatch,
    Repetition,
    bad_of,
    evidence_alone,
    evidence_in,
    line_on_stack,
    loop_line_of,
    origin_in,
    origin_in_use,
    run_again,
    traced,
    why_no_origin,
)
from esper.watching.finding.frames import counters_in, is_plumbing, named_tensors, tensors_in
from esper.watching.finding.repeating import recall
from esper.watching.finding.repeating.earlier_passes import (
    NOT_AGAIN,
    EarlierIsGoneError,
    is_accumulating,
    values_before,
)
from esper.watching.finding.repeating.put_back import everything_put_back
from esper.watching.finding.repeating.recall import model_call, with_gradients_as
from esper.watching.finding.repeating.repeater import Repeater
from esper.watching.finding.repeating.rerun import (
    LOOP_FUNCTION,
    CannotRunAgainError,
    has_loop,
    tensors_of_error,
)
from esper.watching.finding.repeating.without_partners import possible_ones
from esper.watching.finding.source import add_sources
from esper.watching.finding.steps_left_out import StepsLeftOut
from esper.watching.guard import Guard
from esper.watching.model.generators import Start
from esper.watching.model.parts import Part
from esper.watching.model.shards import local

Replay = Literal["auto", "model", "off"]
_EACH_STEPS: Final = "every pass of the loop takes a step"
_FRAMES: Final = 5  # number of frames whose variables are read


class Explainer:
    """Explains bad minibatches by repeating them immediately.

    Args:
        owners: owners of the parts of the models.
        guard: the watch's guard.
        replay: "auto" repeats the training loop's minibatch, or only the call of the model if the
            loop must not run again; "model" always repeats only the call of the model; "off"
            repeats nothing.
        optimizers: the models' optimizers; others become known at their first bad step.
        inputs: returns the sources of the loop's tensors, such as rewards, by name.
        repeater: repeats minibatches instead of the loop; None to run the loop again.
        record_bytes: maximum size in bytes of the inputs of a recorded repetition; 0 disables
            recording.

    Attributes:
        apart: how minibatches are repeated without side effects.
        variables: the training loop's own tensors in the last incident, by name.
        recorded: the recorded operations of its repetition; None if there are none.
        seen: outputs and gradients of the current repetition; None outside of one.
        outputs: input and output of each call of the output layer during a repetition, if the sum
            of the output is not finite.
    """

    def __init__(
        self,
        owners: Owners,
        guard: Guard,
        replay: Replay = "auto",
        optimizers: Sequence[torch.optim.Optimizer] = (),
        inputs: Callable[[], Mapping[str, Any]] = dict,
        repeater: Repeater | None = None,
        record_bytes: int = 0,
    ) -> None:
        self._owners = owners
        self._models, self._parts, self._heads = owners.models, owners.parts, owners.heads
        self._replay, self._inputs = replay, inputs
        self._optimizers = {id(optimizer): optimizer for optimizer in optimizers}
        self._of_parameter = {id(part.parameter): part for part in owners.parts}
        self._repeater, self._record_bytes = repeater, record_bytes
        self.recorded: RecordedMinibatch | None = None
        self.seen: list[Tensor] | None = None
        self.outputs: list[tuple[Tensor | None, Tensor]] = []
        self.variables: dict[str, Tensor] = {}
        self.apart = Apart(guard, owners.models, is_off=replay == "off")

    def explain(
        self,
        stack: Sequence[FrameType],
        phase: str,
        minibatch: Minibatch,
        optimizer: torch.optim.Optimizer | None = None,
        explained: Mapping[Look, Explanation] | None = None,
    ) -> Explanation:
        """Return a minibatch's first non-finite values, without consequences, and their origin.

        A fault that was explained before is not repeated.

        Args:
            stack: frames, innermost first.
            phase: "acting" or "update".
            minibatch: held values; gradients are only used at the optimizer's step.
            optimizer: the optimizer about to step; None if there is none.
            explained: earlier explanations, by their first findings.
        """
        frames = [frame for frame in stack if not is_plumbing(frame.f_code.co_filename)]
        variables: dict[str, Tensor] = {}
        sources: dict[str, set[str]] = {}
        for frame in self._own(frames)[::-1]:  # the training loop first
            known = KnownTensors(variables)
            for name, tensor in named_tensors(frame).items():
                is_norm = any(tensor is norm for norm in minibatch.norms)
                # A function's argument keeps the name that it has in the caller.
                if not is_norm and not known.name_around(tensor):
                    variables.setdefault(name, tensor)
            add_sources(frame, sources)
        self.variables = {name: tensor.detach() for name, tensor in variables.items()}
        if optimizer is not None:
            self._optimizers[id(optimizer)] = optimizer
        state = self.state()
        minibatch = replace(minibatch, gradients=self._gradients_for(optimizer, minibatch))
        inputs = {name: torch.as_tensor(values) for name, values in self._inputs().items()}

        def evidence(
            names: Iterable[str], again: Mapping[str, Tensor] | None = None
        ) -> tuple[Found, ...]:
            values = {**variables, **(again or {})}
            own = {name: values[name] for name in names}
            found = evidence_in(self._parts, self._heads, minibatch, own, state, inputs)
            return self._trained(found) or self._in_others(optimizer)

        named = self._named(variables, state if optimizer is not None else {})
        repetitions = self._repetitions(stack, frames, named, phase, optimizer, minibatch)
        repetitions = possible_ones(repetitions, optimizer, minibatch.outputs)
        found = evidence(masks_last(variables))
        look = look_of(found)
        if explained and look in explained:
            return explained[look]
        explanation = self._with_origin(
            frames, found, evidence, variables, sources, repetitions, optimizer
        )
        counters = counters_in(frames[: len(self._own(frames)) + 1]) if phase == "acting" else ""
        return replace(explanation, first_look=look, counters=counters)

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

    def _own(self, frames: Sequence[FrameType]) -> Sequence[FrameType]:
        """Return the frames up to the training loop's; its callers are not relevant."""
        modules = {id(module) for model in self._models for module in model.modules()}
        for number, frame in enumerate(frames[:_FRAMES]):
            if id(frame.f_locals.get("self")) not in modules and has_loop(frame):
                return frames[: number + 1]
        return frames[: _FRAMES + 1]

    @apart
    def explain_held(
        self,
        gradients: Sequence[Tensor | None],
        bad_results: tuple[Found, ...],
        optimizer: torch.optim.Optimizer | None,
    ) -> Explanation:
        """Like `explain`, for an update whose minibatches are held by the integration.

        The minibatches are computed again first, because their results were not kept.

        Args:
            gradients: gradient of each part, before clipping.
            bad_results: findings of the first run, used if it cannot be repeated.
            optimizer: the optimizer about to step; None if there is none.
        """
        repeater = self._repeater
        assert repeater is not None
        inputs, state = repeater.inputs(), self.state()
        named = self._named(inputs, state)
        tracer = traced(self._models, named, repeater.loss_function, self._recorder())
        self.seen, self.outputs = [], []
        results: Mapping[str, Tensor] = {}
        reason = "when it was repeated, it was finite"
        own = [parameter for model in self._models for parameter in model.parameters()]
        try:
            if never := self.apart.why_never(has_library=True):
                raise CannotRunAgainError(never)
            if any(one._post_accumulate_grad_hooks for one in own):
                raise CannotRunAgainError("the backward pass steps the optimizer itself")
            with everything_put_back(self._models, repeater.owners()), tracer:
                try:
                    results = repeater.run(optimizer)
                except torch.OutOfMemoryError:
                    raise CannotRunAgainError("the device has no memory to repeat it") from None
                except (ValueError, RuntimeError):
                    pass  # PyTorch rejected a NaN, as in the first run
                self.seen += [one.grad for one in own if one.grad is not None]
            self.seen += results.values()
            origin = origin_in(tracer, bad_of(self.seen))
            self._keep_recording(tracer, origin, bad_of(self.seen))
        except CannotRunAgainError as error:
            reason, origin = str(error), None
        finally:
            self.seen = None
        minibatch = Minibatch(self.outputs, gradients)
        found = evidence_in(self._parts, self._heads, minibatch, {**inputs, **results}, state)
        if not found or found[0].quantity == "gradient":
            is_sum_only = not found and bool(self.outputs)  # finite values with an infinite sum
            found = found if is_sum_only else bad_results or found
        self.outputs = []
        if origin is None:
            return Explanation(found, why_no_origin=reason)
        line, function = loop_line_of(origin.operation), origin.operation.place.function
        return Explanation(found, origin, line, function=function)

    def without_explanation(
        self, minibatch: Minibatch, optimizer: torch.optim.Optimizer | None, error: Exception
    ) -> Explanation:
        """Return only the findings in outputs and gradients, after `explain` failed."""
        gradients = self._gradients_for(optimizer, minibatch)
        found = evidence_alone(self._parts, self._heads, replace(minibatch, gradients=gradients))
        reason = f"the watch failed when it explained it: {type(error).__name__}"
        return Explanation(found or self._in_others(optimizer), why_no_origin=reason)

    def saw_again(self, taken: Tensor | None, output: Tensor) -> None:
        """Keep an output of a repetition if its sum is not finite."""
        if self.seen is not None and not bool(output.detach().sum(dtype=torch.float32).isfinite()):
            self.seen.append(output)
            self.outputs.append((taken, output))

    def forget(self) -> None:
        """Release the tensors of an incident after it was recorded."""
        self.variables, self.recorded, self.outputs = {}, None, []

    def weights(self) -> tuple[Found, ...]:
        """Return the parameters that are not finite."""
        nothing = Minibatch((), [None for _ in self._parts])
        return self._trained(evidence_in(self._parts, self._heads, nothing, {}, self.state()))

    def _trained(self, found: tuple[Found, ...]) -> tuple[Found, ...]:
        """Leave out parameters that no optimizer trains, such as a target network's copies."""
        groups = [group for one in self._optimizers.values() for group in one.param_groups]
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        others = {part.name for part in self._parts if id(part.parameter) not in trained}
        own = tuple(one for one in found if one.quantity != "parameters" or one.part not in others)
        return own or found

    def _in_others(self, optimizer: torch.optim.Optimizer | None) -> tuple[Found, ...]:
        """Return findings in gradients of an optimizer's parameters that are not in any model."""
        groups = [] if optimizer is None else optimizer.param_groups
        own = [p for group in groups for p in group["params"] if id(p) not in self._of_parameter]
        kinds = dict.fromkeys(kind for p in own if p.grad is not None for kind in kinds_of(p.grad))
        return tuple(Found(SHARED, "gradient", kind) for kind in kinds)

    @apart
    def _with_origin(
        self,
        frames: Sequence[FrameType],
        found: tuple[Found, ...],
        evidence: Callable[..., tuple[Found, ...]],
        variables: Mapping[str, Tensor],
        sources: Mapping[str, set[str]],
        repetitions: Sequence[Callable[[], Repetition]],
        optimizer: torch.optim.Optimizer | None,
    ) -> Explanation:
        is_reproduced = False
        reasons = [] if self._repeater is None else ["only training steps are repeated"]
        for repeat in () if self.apart.not_again else repetitions:
            self.seen = []
            try:
                run = repeat()
                tracer, again, harm = run.tracer, run.again, bad_of(self.seen)
                is_reproduced |= bool(harm)
                is_cut_short = run.is_cut_short(has_stepped=optimizer is not None)
                if harm or not is_cut_short:
                    values = {**variables, **again} if run.is_earlier else variables
                    names = causes_first(tracer, harm, values, again, sources)
                    if is_cut_short:  # only the first run shows the order of later variables
                        names = [name for name in masks_last(values) if name in names]
                    found = evidence(names, again if run.is_earlier else None)
                # The tensors of the findings in the second run; otherwise its non-finite results.
                own = bad_of([again[one.quantity] for one in found if one.quantity in again])
                if (origin := origin_in(tracer, own)) is None:
                    own = harm
                    origin = origin_in(tracer, own) or origin_in_use(tracer, found)
                self._keep_recording(tracer, origin, own)
            except EarlierIsGoneError as error:
                reasons.insert(0, str(error))
                continue
            except CannotRunAgainError as error:
                reasons.append(str(error))
                continue
            except Exception as error:  # noqa: BLE001 - the other findings are still reported
                self.apart.count(error)
                reasons.append(f"the watch failed when it repeated it: {type(error).__name__}")
                continue
            finally:
                self.seen = None
            if origin is not None:
                operation = origin.operation
                function = operation.place.function
                if function == LOOP_FUNCTION:  # the loop's own function, run again under that name
                    callers = (f for f in frames if f.f_code.co_filename == operation.place.file)
                    function = next((f.f_code.co_name for f in callers), "")
                found = as_it_began(found, operation, self._owners)
                line = loop_line_of(operation) or line_on_stack(frames, operation)
                return Explanation(found, origin, line, "", function, is_reproduced)
            reasons.append(why_no_origin(run.error if is_cut_short else None, found))
        reason = self.apart.why_never() or next(iter(reasons))
        return Explanation(found, why_no_origin=reason, is_reproduced=is_reproduced)

    def _recorder(self) -> OperationRecorder | None:
        return OperationRecorder(self._record_bytes) if self._record_bytes else None

    def _keep_recording(
        self, tracer: OperationTracer, origin: Origin | None, looked_at: list[Tensor]
    ) -> None:
        """Keep the recorded operations of a repetition that found an origin."""
        if tracer.recorder is not None and origin is not None:
            self.recorded = tracer.recorder.recorded(looked_at)

    def _repetitions(
        self,
        stack: Sequence[FrameType],
        frames: Sequence[FrameType],
        named: Mapping[str, Tensor],
        phase: str,
        optimizer: torch.optim.Optimizer | None,
        minibatch: Minibatch,
    ) -> list[Callable[[], Repetition]]:
        starts = minibatch.starts(steps_often=len(self._optimizers) > 1)

        def steps_left_out() -> StepsLeftOut:
            assert self.seen is not None
            known = list(self._optimizers.values())
            return StepsLeftOut(optimizer, self.seen, known, minibatch.closure_rng)

        def loop(start: Start | None) -> Repetition:
            more = start, None, self._recorder(), self.apart.is_child
            return run_again(frames, self._models, named, steps_left_out(), *more)

        def earlier() -> Repetition:
            assert self.seen is not None
            own = next((frame for frame in frames if has_loop(frame)), None)
            if optimizer is None or own is None or not is_accumulating(own):
                raise CannotRunAgainError(_EACH_STEPS)
            for number, values in enumerate(values_before(own)):
                held = {
                    f"variable {path}": tensor
                    for name, value in values.items()
                    for path, tensor in tensors_in(name, value)
                }
                steps, known = steps_left_out(), {**held, **named}
                # Only the states of the generators after the last step are known.
                more = starts[0], values, self._recorder(), self.apart.is_child
                run = run_again(frames, self._models, known, steps, *more)
                if bad_of(self.seen):
                    return run
                if run.error is not None:
                    raise CannotRunAgainError(why_no_origin(run.error))
                if steps.is_reached and not number:
                    raise CannotRunAgainError(_EACH_STEPS)
                if steps.is_reached:  # this pass took the previous step
                    break
                self.seen.clear()
            raise EarlierIsGoneError(NOT_AGAIN)

        def model() -> Repetition:
            call = with_gradients_as(phase == "update", model_call(stack, self._models))
            recorder = self._recorder()
            tracer = traced(self._models, named, recorder=recorder, called_from=recall.__file__)
            variables = [value for frame in frames[:1] for value in frame.f_locals.values()]
            assert self.seen is not None
            with everything_put_back(self._models, variables), tracer:
                try:
                    self.seen += [tensor for _, tensor in tensors_in("result", call())]
                except Exception as error:  # noqa: BLE001 - PyTorch may reject a NaN here as well
                    return Repetition(tracer, tensors_of_error(error), error=error)
            return Repetition(tracer, {})

        if self._repeater is not None or self.apart.why_never():
            return []
        if self._replay == "model" or phase != "update":
            return [model]
        return [*(partial(loop, start) for start in starts), earlier, model]

    def _named(
        self, variables: Mapping[str, Tensor], state: Mapping[str, tuple[Part, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the tensors that exist before a minibatch is computed, by name."""
        # If two variables are the same tensor, or views of all of it, the first name is used.
        named = {f"variable {name}": tensor for name, tensor in reversed([*variables.items()])}
        # A weight keeps its name even if a variable is a view of it.
        named |= {f"weight {part.name}": local(part.parameter.detach()) for part in self._parts}
        named |= {f"optimizer {name}": tensor for name, (_, tensor) in state.items()}
        return named

    def moments(self) -> list[Tensor]:
        """Return the optimizers' state tensors of all parameters."""
        known = self._of_parameter
        return [
            local(value)
            for optimizer in self._optimizers.values()
            for parameter, state in optimizer.state.items()
            if id(parameter) in known
            for value in state.values()
            if isinstance(value, Tensor) and (value.dim() or not parameter.dim())
        ]

    def state(self) -> dict[str, tuple[Part, Tensor]]:
        """Return the optimizers' state tensors of each parameter, by name."""
        return {
            f"{name} of {part.name}": (part, local(value))
            for optimizer in self._optimizers.values()
            for parameter, state in optimizer.state.items()
            if (part := self._of_parameter.get(id(parameter))) is not None
            for name, value in state.items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }

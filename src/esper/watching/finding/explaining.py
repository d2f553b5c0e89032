"""Finds the cause of a bad minibatch: the first non-finite values, and their operation.

Evidence is gathered in the order of computation: initial weights, the loop's own variables, the
outputs of the heads, the gradients. The first finding is the cause; its consequences are not
reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, TypeVar

from torch import Tensor, nn

from esper.leyline.telemetry import SHARED
from esper.tracing.causes import poisoned
from esper.tracing.operations import Operation, line_text
from esper.tracing.origin import Origin, find_origin
from esper.tracing.recorded import OperationRecorder
from esper.tracing.tracer import OperationTracer
from esper.watching.checks.found import Found, Look
from esper.watching.checks.looks import is_finite, kinds_of
from esper.watching.finding.child.isolation import REFUSED
from esper.watching.finding.frames import is_plumbing
from esper.watching.finding.repeating.put_back import everything_put_back
from esper.watching.finding.repeating.rerun import (
    LOOP_FUNCTION,
    CannotRunAgainError,
    NoLoopError,
    body_of,
    has_loop,
)
from esper.watching.finding.repeating.without_partners import FROM_ANOTHER_RANK, is_from_partner
from esper.watching.finding.steps_left_out import StepsLeftOut
from esper.watching.model.generators import Generators, Start
from esper.watching.model.heads import OUTPUT_QUANTITIES, Head
from esper.watching.model.parts import Part, bad_rows

#: Number of calling lines of an operation that are searched for the name of its result.
CALLERS: Final = 8
_T = TypeVar("_T")


@dataclass(frozen=True)
class Explanation:
    """The explanation of one bad minibatch.

    Attributes:
        found: the causes, in order of computation.
        origin: the first operation that turned finite inputs into a non-finite result.
        line: the training loop's own line, if the operation's line belongs to a library.
        why_no_origin: sentence that says why there is no origin.
        function: name of the function that called the operation.
        is_reproduced: whether outputs or gradients were also non-finite in the repetition.
        counters: the training loop's counters while acting, such as "global_step = 804".
        first_look: the findings before the repetition, which are the same when a fault occurs
            again.
    """

    found: tuple[Found, ...]
    origin: Origin | None = None
    line: str = ""
    why_no_origin: str = ""
    function: str = ""
    is_reproduced: bool = False
    counters: str = ""
    first_look: Look = frozenset()


@dataclass(frozen=True)
class Minibatch:
    """Values of a minibatch, held until the optimizer's step.

    Attributes:
        outputs: input and output of each call of the output layer.
        gradients: gradient of each part before clipping; None for a part without one.
        rngs: states of torch's generator after the last steps, newest first. The minibatch began
            at one of them.
        generators: the same of other generators.
        norms: gradient norms from clipping. A variable of the loop with such a norm is not a cause.
        bad_loss: kind of the loss in the backward pass; empty if it is finite.
        closure_rng: state of torch's generator before the last call of the step's closure, which
            computed the gradients; None if they were computed before the step.
        had_finite_gradients: whether other gradients of the same backward pass, which were used
            already, were finite.
    """

    outputs: Sequence[tuple[Tensor | None, Tensor]]
    gradients: Sequence[Tensor | None]
    rngs: Sequence[Tensor] = ()
    norms: Sequence[Tensor] = ()
    bad_loss: str = ""
    closure_rng: Tensor | None = None
    had_finite_gradients: bool = False
    generators: Sequence[Generators] = ()

    def starts(self, *, steps_often: bool) -> list[Start | None]:
        """Return the states that the generators may have had at its start, most likely first.

        Args:
            steps_often: whether several optimizers step in a pass of the loop, which then began
                before the last step.
        """
        if not self.rngs:
            return [None]
        number = max(len(self.rngs), len(self.generators)) if steps_often else 1
        return [
            Start(_at(self.rngs, n), _at(self.generators, n) if self.generators else None)
            for n in range(number)
        ]


def _at(values: Sequence[_T], number: int) -> _T:
    return values[min(number, len(values) - 1)]


@dataclass(frozen=True)
class Repetition:
    """A second run of a minibatch.

    Attributes:
        tracer: its operations.
        again: its tensors, by name.
        is_earlier: whether it was an earlier minibatch.
        error: exception that ended it; None if it reached the optimizer's step or its end.
    """

    tracer: OperationTracer
    again: dict[str, Tensor]
    is_earlier: bool = False
    error: Exception | None = None

    def is_cut_short(self, *, has_stepped: bool) -> bool:
        """Return whether an exception ended it that did not end the first run.

        Args:
            has_stepped: whether the first run reached the optimizer's step.
        """
        is_refused = bool(REFUSED) or isinstance(self.error, OSError)
        return self.error is not None and (has_stepped or is_refused)


@dataclass
class _Evidence:
    found: list[Found] = field(default_factory=list)

    def add(self, owners: Sequence[str], quantity: str, values: Tensor, part: str = "") -> None:
        for owner in owners:
            for kind in kinds_of(values):
                one = Found(owner, quantity, kind, part)
                if one not in self.found:
                    self.found.append(one)


def evidence_in(
    parts: Sequence[Part],
    heads: Sequence[Head],
    minibatch: Minibatch,
    variables: Mapping[str, Tensor],
    state: Mapping[str, tuple[Part, Tensor]],
    inputs: Mapping[str, Tensor] | None = None,
) -> tuple[Found, ...]:
    """Return the first non-finite quantities of a minibatch, without their consequences.

    Args:
        parts: all parameters with their owners.
        heads: the model's heads.
        minibatch: the held values.
        variables: the loop's own tensors, in order of their first assignment.
        state: the optimizer's state tensors by name, with the parameter that they belong to.
        inputs: sources of the loop's tensors, such as rewards, in order of computation.
    """
    inputs = inputs or {}
    given = _Evidence()
    moments = _Evidence()
    for name, (part, values) in state.items():
        if not is_finite(values):
            moments.add(bad_rows(part, values), "moments", values, name)
    for part in parts:
        if not is_finite(part.parameter):
            of_part = [one for one in moments.found if one.part.endswith(f" of {part.name}")]
            # The last step had finite gradients, so the optimizer's state broke the weight.
            given.found += of_part
            if not of_part:
                owners = bad_rows(part, part.parameter)
                given.add(owners, "parameters", part.parameter, part.name)
    if given.found:
        return tuple(given.found)
    bad = {name: tensor for name, tensor in variables.items() if not is_finite(tensor)}
    first = next(iter(bad), "")
    if bad and bad[first].grad_fn is None:
        earlier = {name: values for name, values in inputs.items() if not is_finite(values)}
        return _first_of(earlier or bad)
    outputs = _evidence_in_outputs(heads, minibatch)
    if outputs:
        return outputs
    if bad:
        return _first_of(bad)
    if moments.found:
        return tuple(moments.found)
    in_gradients = _evidence_in_gradients(parts, minibatch)
    is_loss_alone = minibatch.bad_loss and not in_gradients
    return (Found(SHARED, "loss", minibatch.bad_loss),) if is_loss_alone else in_gradients


def _first_of(bad: Mapping[str, Tensor]) -> tuple[Found, ...]:
    """Return all kinds of non-finite values in the first of some tensors."""
    name, tensor = next(iter(bad.items()))
    return tuple(Found(SHARED, name, kind) for kind in kinds_of(tensor))


def _evidence_in_outputs(heads: Sequence[Head], minibatch: Minibatch) -> tuple[Found, ...]:
    evidence = _Evidence()
    for taken, output in minibatch.outputs:
        if is_finite(output):
            continue
        if taken is not None and not is_finite(taken):
            evidence.add([SHARED], "features", taken)
            continue
        own = [(head, head.columns) for head in heads if head.columns is not None]
        if not own:
            evidence.add([SHARED], "output", output)
        for head, place in own:
            columns = output[..., place.start : place.stop]
            if not is_finite(columns):
                quantity = OUTPUT_QUANTITIES.get(head.kind, "output")
                evidence.add([head.name], quantity, columns)
    return tuple(evidence.found)


def _evidence_in_gradients(parts: Sequence[Part], minibatch: Minibatch) -> tuple[Found, ...]:
    evidence = _Evidence()
    is_everything = not minibatch.had_finite_gradients
    for part, gradient in zip(parts, minibatch.gradients, strict=True):
        if gradient is None or not gradient.numel():
            continue
        if is_finite(gradient):
            is_everything = False
            continue
        evidence.add(bad_rows(part, gradient), "gradient", gradient, part.name)
    if is_everything and evidence.found:
        # All gradients are bad, so the derivative of the loss was bad before it reached any part.
        kinds = dict.fromkeys(found.kind for found in evidence.found)
        return tuple(Found(SHARED, "gradient", kind) for kind in kinds)
    heads_only = [found for found in evidence.found if found.owner != SHARED]
    return tuple(heads_only or evidence.found)


def evidence_alone(
    parts: Sequence[Part], heads: Sequence[Head], minibatch: Minibatch
) -> tuple[Found, ...]:
    """Return the findings in the outputs and gradients of a minibatch, without variables."""
    found = _evidence_in_outputs(heads, minibatch)
    if found:
        return found
    return tuple(
        Found(part.owner or SHARED, "gradient", kind, part.name)
        for part, gradient in zip(parts, minibatch.gradients, strict=True)
        if gradient is not None
        for kind in kinds_of(gradient)
    )


def run_again(
    frames: Sequence[FrameType],
    models: Sequence[nn.Module],
    named: Mapping[str, Tensor],
    optimizers: StepsLeftOut,
    start: Start | None = None,
    earlier: Mapping[str, Any] | None = None,
    recorder: OperationRecorder | None = None,
    is_private: bool = False,
) -> Repetition:
    """Run the minibatch of a frame again under the tracer, and restore all state.

    Args:
        frames: candidate frames, innermost first; the first one with a loop is run.
        models: the trained models.
        named: tensors that exist before the run, by name.
        optimizers: ends the run at a step, and skips earlier steps.
        start: states of the generators at the start of the minibatch; None if unknown.
        earlier: values of the loop's own variables in an earlier pass, to run that pass instead.
        recorder: receives every operation.
        is_private: whether this process shares no memory with the training.

    Raises:
        CannotRunAgainError: no frame has a loop that can be run again.
    """
    reason = "no frame has a loop"
    for frame in frames:
        try:
            body = body_of(frame, is_earlier=earlier is not None, is_private=is_private)
        except CannotRunAgainError as error:
            reason = str(error)
            if isinstance(error, NoLoopError):
                continue
            raise
        tracer = traced(models, named, LOOP_FUNCTION, recorder)
        variables = list(frame.f_locals.values())
        with everything_put_back(models, variables, start), optimizers, tracer:
            again, ended_by = body.run(earlier)
            if earlier is not None:
                optimizers.see_gradients()
        return Repetition(tracer, again, earlier is not None, ended_by)
    raise CannotRunAgainError(reason)


def traced(
    models: Sequence[nn.Module],
    named: Mapping[str, Tensor],
    loop: str = "",
    recorder: OperationRecorder | None = None,
    called_from: str = "",
) -> OperationTracer:
    """Return a tracer for a repetition.

    Args:
        models: the watched models.
        named: tensors that exist before the repetition, by name.
        loop: name of the function that repeats the loop's body; empty if the loop is not repeated.
        recorder: receives every operation.
        called_from: source file of the repetition; frames outside of it are ignored.
    """
    tracer = OperationTracer(
        models[0],
        type(models[0]).__name__,
        named,
        is_plumbing=is_plumbing,
        loop=loop,
        recorder=recorder,
        callers=CALLERS,
        masks_by_value=True,
        names_arrays=True,
        called_from=called_from,
    )
    for model in models[1:]:
        tracer.name_modules(model, type(model).__name__)
    tracer.phase = "forward"
    return tracer


def origin_in(tracer: OperationTracer, seen: Sequence[Tensor]) -> Origin | None:
    """Return the origin of the non-finite values in some tensors of a traced run.

    Results computed from weights alone, such as a standard deviation, take precedence over data,
    because the actions in the minibatch were drawn with them.
    """
    makers = [maker for tensor in seen for maker in tracer.makers(tensor)]
    origin = find_origin(makers, comes_first=_is_of_weights)
    return None if origin is None else _at_first_use(tracer, origin)


def _at_first_use(tracer: OperationTracer, origin: Origin) -> Origin:
    """Return an origin in a derivative of what came in non-finite at the operation that used it.

    Its own result was finite: an infinite input only saturates a gate, for example.
    """
    operation = origin.operation
    if operation.phase != "backward":
        return origin
    takers = [tracer.taker(poison) for poison in operation.poisons]
    before = [one for one in takers if one is not None and one.number < operation.number]
    if not before:
        return origin
    first = min(before, key=lambda one: one.number)
    return Origin(first, (first, *origin.chain), origin.cause)


def _is_of_weights(operation: Operation) -> bool:
    """Return whether the inputs of an operation are finite weights only."""
    names = [part.of for part in operation.inputs]
    return bool(names) and not operation.poisons and all(n.startswith("weight ") for n in names)


def origin_in_use(tracer: OperationTracer, found: Sequence[Found]) -> Origin | None:
    """Return the first operation that used a finding, if all its results are finite."""
    names = {f"variable {one.quantity}" for one in found}
    names |= {f"{kind} {one.part}" for one in found for kind in ("weight", "optimizer")}
    takers = [(tracer.taker(poison), poison) for poison in tracer.poisons if poison.name in names]
    used = [(taker, poison) for taker, poison in takers if taker is not None]
    if not used:
        return None
    operation, poison = min(used, key=lambda one: one[0].number)
    return Origin(operation, (operation,), poisoned((poison,)))


def loop_line_of(operation: Operation) -> str:
    """Return file, line and code in the training loop; empty if the operation is on that line."""
    place = operation.place
    if place.loop is None or place.loop == (place.file, place.line):
        return ""
    return source_line(*place.loop)


def source_line(file: str, line: int) -> str:
    """Return file, number and code of a line."""
    return f"{file}:{line}: {line_text(file, line)}"


def line_on_stack(frames: Sequence[FrameType], operation: Operation) -> str:
    """Return file, line and code of the loop on the stack; empty if it is the operation's line."""
    loop = next((frame for frame in frames if has_loop(frame)), None)
    place = operation.place
    if loop is None or (loop.f_code.co_filename, loop.f_lineno) == (place.file, place.line):
        return ""
    return source_line(loop.f_code.co_filename, loop.f_lineno)


def why_no_origin(error: Exception | None, found: Sequence[Found] = ()) -> str:
    """Return why a second run shows no origin.

    Args:
        error: the exception that cut it short; None if there was none.
        found: the findings of the first run.
    """
    if error is None and found and is_from_partner(found):
        return FROM_ANOTHER_RANK
    if error is None:
        return "when it was repeated, it was finite"
    first_line = str(error).partition("\n")[0]
    return f"its second run failed with {type(error).__name__}: {first_line}".rstrip(": ")


def bad_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that are not finite."""
    return [one for one in tensors if not is_finite(one)]

"""From trouble to its cause: who broke first, and at which operation.

Evidence is gathered in the order in which a minibatch computes: the weights it starts from, the
loop's own variables, the outputs of the heads, the gradients. What stands first is the cause, and
what follows from it is not reported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

from torch import Tensor, nn

from esper.leyline.telemetry import SHARED
from esper.tracing.causes import poisoned
from esper.tracing.operations import Operation, line_text
from esper.tracing.origin import Origin, find_origin
from esper.tracing.recorded import OperationRecorder
from esper.tracing.tracer import OperationTracer
from esper.watching.finding.frames import is_plumbing
from esper.watching.finding.put_back import everything_put_back
from esper.watching.finding.rerun import (
    LOOP_FUNCTION,
    CannotRunAgainError,
    NoLoopError,
    body_of,
)
from esper.watching.finding.steps_left_out import StepsLeftOut
from esper.watching.heads import OUTPUT_QUANTITIES, Head
from esper.watching.looks import is_finite, kinds_of
from esper.watching.parts import Part, bad_rows

#: Of an operation, so many lines that called it may say what its result is called.
CALLERS: Final = 8


@dataclass(frozen=True)
class Found:
    """One thing that is not finite and that nothing else explains."""

    owner: str  # a head, a group, or SHARED
    quantity: str
    kind: str  # "nan", "+inf" or "-inf"
    part: str = ""  # the tensor
    environment: int | None = None  # that returned it, as the library counts; None: not known
    step: int | None = None  # of that environment, counted from 1; 0: its first reset


#: What was found, without its kinds: a fault that lasts may make an Inf once, and then a NaN.
Look = frozenset[tuple[str, str, str]]


def look_of(found: Iterable[Found]) -> Look:
    """Return owner, quantity and part of what was found."""
    return frozenset((one.owner, one.quantity, one.part) for one in found)


@dataclass(frozen=True)
class Explanation:
    """What was found in one minibatch.

    Attributes:
        found: causes only, in the order in which they were computed.
        origin: the first operation that turned finite inputs into a non-finite result.
        line: the training loop's own line, where the operation's line is a library's.
        why_no_origin: a sentence, where the minibatch could not be run again.
        function: name of the function that called the operation.
        is_reproduced: whether outputs or gradients were not finite when it was repeated, either.
        counters: of the training loop while acting, such as "global_step = 804".
        first_look: what was found before the minibatch was repeated: the same fault, seen again,
            looks the same.
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
    """What is held of a minibatch until the optimizer's step.

    Attributes:
        outputs: input and output of each call of the output layer.
        gradients: of each part, before clipping; None for one without.
        rngs: states of torch's generator after the last steps, the newest first: the minibatch
            began at one of them.
        norms: of its gradients, from clipping. A variable of the loop that holds one is no cause.
        bad_loss: kind of its loss, whose backward pass was called; empty if that is finite.
    """

    outputs: Sequence[tuple[Tensor | None, Tensor]]
    gradients: Sequence[Tensor | None]
    rngs: Sequence[Tensor] = ()
    norms: Sequence[Tensor] = ()
    bad_loss: str = ""


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
    """Return the first things in a minibatch that are not finite: causes without consequences.

    Args:
        parts: all parameters with their owners.
        heads: of the model.
        minibatch: what is held of it.
        variables: the loop's own tensors, in the order of their first assignment.
        state: what the optimizer keeps, by name, with the parameter that it belongs to.
        inputs: what the loop's tensors were computed from before, such as rewards, in that order.
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
            # The last step had finite gradients: what it kept of earlier ones broke the weight.
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
    is_everything = True
    for part, gradient in zip(parts, minibatch.gradients, strict=True):
        if gradient is None:
            continue
        if is_finite(gradient):
            is_everything = False
            continue
        evidence.add(bad_rows(part, gradient), "gradient", gradient, part.name)
    if is_everything and evidence.found:
        # All of it broke: the derivative of the loss did, before it reached any part.
        kinds = dict.fromkeys(found.kind for found in evidence.found)
        return tuple(Found(SHARED, "gradient", kind) for kind in kinds)
    heads_only = [found for found in evidence.found if found.owner != SHARED]
    return tuple(heads_only or evidence.found)


def evidence_alone(
    parts: Sequence[Part], heads: Sequence[Head], minibatch: Minibatch
) -> tuple[Found, ...]:
    """Return what the outputs and the gradients of a minibatch show, without anything else."""
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
    rng: Tensor | None = None,
    earlier: Mapping[str, Any] | None = None,
    recorder: OperationRecorder | None = None,
) -> tuple[OperationTracer, dict[str, Tensor]]:
    """Run the minibatch of a frame again under the tracer, and put everything back.

    Returns the tracer, and the tensors of the second run by name.

    Args:
        frames: candidates, innermost first; the first with a loop is run.
        models: that the loop trains.
        named: tensors that exist before, by name.
        optimizers: ends the run at a step, and leaves out the steps before it.
        rng: state of torch's generator when the minibatch began; None if unknown.
        earlier: what the loop's own variables were in an earlier pass, to run that one instead.
        recorder: receives every operation.

    Raises:
        CannotRunAgainError: no frame has a loop that can be run again.
    """
    reason = "no frame has a loop"
    for frame in frames:
        try:
            body = body_of(frame, is_earlier=earlier is not None)
        except CannotRunAgainError as error:
            reason = str(error)
            if isinstance(error, NoLoopError):
                continue
            raise
        tracer = traced(models, named, LOOP_FUNCTION, recorder)
        variables = list(frame.f_locals.values())
        with everything_put_back(models, variables, rng), optimizers, tracer:
            again = body.run(earlier)
            if earlier is not None:
                optimizers.see_gradients()
        return tracer, again
    raise CannotRunAgainError(reason)


def traced(
    models: Sequence[nn.Module],
    named: Mapping[str, Tensor],
    loop: str = "",
    recorder: OperationRecorder | None = None,
    called_from: str = "",
) -> OperationTracer:
    """Return a tracer of a repetition.

    Args:
        models: that are watched.
        named: tensors that exist before, by name.
        loop: name of the function that repeats the loop's body; empty if the loop is not repeated.
        recorder: receives every operation.
        called_from: source file that makes the repetition, where its callers are not its own.
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
        called_from=called_from,
    )
    for model in models[1:]:
        tracer.name_modules(model, type(model).__name__)
    tracer.phase = "forward"
    return tracer


def origin_in(tracer: OperationTracer, seen: Sequence[Tensor]) -> Origin | None:
    """Return where what is not finite in some tensors of a traced run began.

    What is computed of weights alone, such as a standard deviation, comes before all data: actions
    that are in the minibatch were drawn with it.
    """
    makers = [maker for tensor in seen for maker in tracer.makers(tensor)]
    return find_origin(makers, comes_first=_is_of_weights)


def _is_of_weights(operation: Operation) -> bool:
    """Return whether an operation only took finite weights."""
    names = [part.of for part in operation.inputs]
    return bool(names) and not operation.poisons and all(n.startswith("weight ") for n in names)


def origin_in_use(tracer: OperationTracer, found: Sequence[Found]) -> Origin | None:
    """Return the first operation that used what was found, where all its results are finite."""
    names = {f"variable {one.quantity}" for one in found}
    names |= {f"{kind} {one.part}" for one in found for kind in ("weight", "optimizer")}
    takers = [(tracer.taker(poison), poison) for poison in tracer.poisons if poison.name in names]
    used = [(taker, poison) for taker, poison in takers if taker is not None]
    if not used:
        return None
    operation, poison = min(used, key=lambda one: one[0].number)
    return Origin(operation, (operation,), poisoned((poison,)))


def loop_line_of(operation: Operation) -> str:
    """Return file, line and code in the training loop, where the operation is called elsewhere."""
    place = operation.place
    if place.loop is None or place.loop == (place.file, place.line):
        return ""
    return source_line(*place.loop)


def source_line(file: str, line: int) -> str:
    """Return file, number and code of a line."""
    return f"{file}:{line}: {line_text(file, line)}"

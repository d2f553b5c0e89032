"""Distinguishes causes from bystanders, which are non-finite variables without any effect.

A loop may have `best = torch.tensor(float("inf"))`, a mask of -inf or the results of another run.
A variable is a cause only if the repeated minibatch computed its non-finite values from it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from esper.tracing.masks import looks_like_mask
from esper.tracing.operations import Operation
from esper.tracing.storages import storage_key
from esper.tracing.tracer import OperationTracer
from esper.watching.checks.looks import is_finite, kinds_of


def causes_first(
    tracer: OperationTracer,
    harm: Sequence[Tensor],
    variables: Mapping[str, Tensor],
    again: Mapping[str, Tensor],
    sources: Mapping[str, set[str]],
) -> list[str]:
    """Return the names of the variables that may be causes, in order of computation.

    Variables that existed before the minibatch come first, in their own order.

    Args:
        tracer: tracer of the repeated minibatch.
        harm: non-finite outputs and gradients of the repetition.
        variables: variables of the first run, by name.
        again: variables of the second run, by name.
        sources: for each variable, the variables that the code assigns it from.
    """
    innocent = _bystanders(tracer, harm, variables, again, sources)

    def made(name: str) -> int:
        makers = tracer.makers(again[name]) if name in again else ()
        return min((maker.number for maker in makers), default=0)

    return sorted((name for name in variables if name not in innocent), key=made)


def masks_last(variables: Mapping[str, Tensor]) -> list[str]:
    """Return the names of variables; those that look like masks of -inf, or masked, come last.

    Used if a minibatch cannot be repeated, because only a repetition shows what was a mask.
    """
    return sorted(variables, key=lambda name: _may_be_mask(name, variables[name]))


def _may_be_mask(name: str, tensor: Tensor) -> bool:
    if kinds_of(tensor) != ("-inf",):
        return False
    if tensor.grad_fn is None:
        return "mask" in name.lower() and looks_like_mask(tensor.detach())
    made_by = tensor.grad_fn.name().rstrip("0123456789").removesuffix("Backward")
    is_constant_added = any(one is None for one, _ in tensor.grad_fn.next_functions)
    return made_by in ("MaskedFill", "Where") or (made_by == "Add" and is_constant_added)


def _bystanders(
    tracer: OperationTracer,
    harm: Sequence[Tensor],
    variables: Mapping[str, Tensor],
    again: Mapping[str, Tensor],
    sources: Mapping[str, set[str]],
) -> frozenset[str]:
    """Return the names of the non-finite variables that are not causes.

    A variable with a gradient function is not a bystander.
    """

    def is_masked(name: str) -> bool:
        makers = tracer.makers(again[name])
        return bool(makers) and all(maker.is_legal for maker in makers)

    ancestors = _ancestors(maker for tensor in harm for maker in tracer.makers(tensor))
    all_poisons = [poison for operation in ancestors for poison in operation.poisons]
    # A tensor without a name may be a copy of any variable.
    has_copies = any(one.index and one.is_unnamed for one in all_poisons)
    if not ancestors or has_copies:
        return frozenset(name for name in again if name in variables and is_masked(name))
    poisons = {poison.name for poison in all_poisons}
    poisoned = {
        storage_key(tensor) for name, tensor in variables.items() if f"variable {name}" in poisons
    }

    # Variables that were computed before the repetition began, and their sources.
    before = {_variable(name) for name in variables if f"variable {name}" in poisons}
    before = before.union(*(_all_sources(name, sources) for name in before))

    def is_cause(name: str, tensor: Tensor) -> bool:
        if storage_key(tensor) in poisoned or (name not in again and _variable(name) in before):
            return True
        makers = tracer.makers(again[name]) if name in again else ()
        made = _ancestors(makers)
        if any(maker in ancestors for maker in makers):
            return True
        if tensor.grad_fn is not None:  # the loss depends on it, unless it is the -inf of a mask
            return bool(made) or not makers
        return any(
            one in ancestors or poisons & {poison.name for poison in one.poisons} for one in made
        )

    return frozenset(
        name
        for name, tensor in variables.items()
        if not is_finite(tensor) and not is_cause(name, tensor)
    )


def _ancestors(makers: Iterable[Operation]) -> set[Operation]:
    """Return operations and all their direct and indirect sources of non-finite values."""
    found: set[Operation] = set()
    queue = [maker for maker in makers if not maker.is_legal]
    while queue:
        operation = queue.pop()
        if operation not in found:
            found.add(operation)
            queue += operation.causes
    return found


def _variable(path: str) -> str:
    """Return the variable that a path such as `lstm_state[0]` begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _all_sources(name: str, sources: Mapping[str, set[str]]) -> set[str]:
    """Return all variables that a variable is assigned from, directly or indirectly."""
    found: set[str] = set()
    queue = [name]
    while queue:
        new = sources.get(queue.pop(), set()) - found
        found |= new
        queue += new
    return found

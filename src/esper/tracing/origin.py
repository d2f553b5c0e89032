"""The origin of a non-finite value: the first operation, and the chain from it to the sighting."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from esper.leyline.telemetry import NonfiniteSighting
from esper.tracing.causes import likely_cause, poisoned
from esper.tracing.operations import Operation, Poison

#: For each quantity, prefixes of the names of the inputs that can explain a sighting of it.
_INPUTS_OF = {
    "loss_scale": ("loss scale",),
    "observations": ("observations",),
    "recurrent_state": ("initial ",),
    "moments": ("optimizer ",),
    "parameters": ("weight ",),
}


@dataclass(frozen=True)
class Origin:
    """The origin of a non-finite value.

    Attributes:
        operation: the first operation with a non-finite result, or the first that used a poisoned
            input.
        chain: the operations from there to the one that made the tensor of the sighting; for an
            origin on the path to the loss, to the one that made the loss or its gradient.
        cause: the likely cause, a sentence.
        reached: the end of the chain, if that is not the sighting.
    """

    operation: Operation
    chain: tuple[Operation, ...]
    cause: str
    reached: str = ""


@dataclass(frozen=True)
class Columns:
    """The part of a tensor's last axis that belongs to the head of a sighting.

    For parameters and their optimizer state it is a part of the first axis.
    """

    size: int  # size of the axis
    own: range
    of_rows: bool = False

    def excludes(self, operation: Operation) -> bool:
        """Return whether an operation made only other columns of such a tensor non-finite."""
        axis = operation.rows if self.of_rows else operation.columns
        if axis is None:
            return False
        size, broken = axis
        return size == self.size and broken.isdisjoint(self.own)


@dataclass(frozen=True)
class _Search:
    """The causes of some operations: where they start, and the next operation of each."""

    towards: dict[Operation, Operation | None]
    starts: tuple[Operation, ...]

    def chain(self, start: Operation) -> tuple[Operation, ...]:
        """Return a shortest chain from a start to the operation that the search began with."""
        chain = [start]
        while (after := self.towards[chain[-1]]) is not None:
            chain.append(after)
        return tuple(chain)


def find_origin(
    makers: Iterable[Operation],
    injections: Sequence[str] = (),
    columns: Sequence[Columns] = (),
    to_loss: Iterable[Operation] = (),
    *,
    comes_first: Callable[[Operation], bool] = lambda _: False,
) -> Origin | None:
    """Return the origin of a non-finite value, or None if no operation made it.

    If the first operation only leads to a displayed figure, and another one on the path to the loss
    became non-finite at the same step and host, that one is returned: it harmed the training.

    Args:
        makers: the operations that made the tensor of the sighting.
        injections: drills that were planted, as text.
        columns: the parts of tensors that belong to the head of the sighting; non-finite values in
            other parts are another fault.
        to_loss: the operations that made the loss, its terms and its gradient in that minibatch.
        comes_first: whether an operation counts as earlier than all others.
    """

    def counts(operation: Operation) -> bool:
        return not any(part.excludes(operation) for part in columns)

    search = _search([maker for maker in makers if not maker.is_legal], counts)
    if not search.starts:
        return None
    first = min(search.starts, key=lambda one: (not comes_first(one), one.number))
    on_path = _search([one for one in to_loss if not one.is_legal], lambda _: True)
    if first not in on_path.towards:
        instead = [one for one in on_path.starts if counts(one) and _coincide(first, one)]
        if instead:
            earliest = min(instead, key=lambda operation: operation.number)
            cause = likely_cause(earliest, injections)
            return Origin(earliest, on_path.chain(earliest), cause, reached="the loss")
    return Origin(first, search.chain(first), likely_cause(first, injections))


def origin_in_poison(
    sighting: NonfiniteSighting,
    poisons: Sequence[Poison],
    taker: Callable[[Poison], Operation | None],
) -> Origin | None:
    """Return the poisoned input that explains a sighting, with the first operation that used it.

    For sightings of inputs, which no operation of the update made.

    Args:
        sighting: the sighting.
        poisons: the inputs that were wrong before the update computed anything.
        taker: returns the first operation that used a poisoned input, or None.

    Returns:
        None if no input was poisoned, or no operation used it. An input that does not match the
        sighting is returned only if none does.
    """
    beginnings = _INPUTS_OF.get(sighting.quantity, ())
    fitting = [poison for poison in poisons if poison.name.startswith(beginnings)]
    if sighting.part:
        fitting = [poison for poison in fitting if poison.name.endswith(sighting.part)] or fitting
    for poison in fitting or poisons[:1]:
        operation = taker(poison)
        if operation is not None:
            return Origin(operation, (operation,), poisoned((poison,)))
    return None


def _search(makers: Iterable[Operation], counts: Callable[[Operation], bool]) -> _Search:
    """Search backwards from operations through the causes that count."""
    # Breadth first, so that the chains are shortest ones.
    towards: dict[Operation, Operation | None] = {maker: None for maker in makers if counts(maker)}
    queue = deque(towards)
    starts = []
    while queue:
        operation = queue.popleft()
        causes = [cause for cause in operation.causes if counts(cause)]
        if operation.poisons or not causes:
            starts.append(operation)
        for cause in causes:
            if cause not in towards:
                towards[cause] = operation
                queue.append(cause)
    return _Search(towards, tuple(starts))


def _coincide(one: Operation, other: Operation) -> bool:
    """Return whether two operations of one minibatch are non-finite at the same step and host."""
    if one.minibatch != other.minibatch or one.places is None or other.places is None:
        return False
    is_same_shape = one.places.shape == other.places.shape
    return is_same_shape and bool((one.places & other.places).any())

"""Where a non-finite value began: the first operation, and the way from it to what was seen."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.replay.causes import likely_cause, poisoned
from esper.simic.replay.operations import Operation, Poison

#: The inputs that a sighting of a quantity may be of, by the beginning of their names.
_INPUTS_OF = {
    "loss_scale": ("loss scale",),
    "observations": ("observations",),
    "recurrent_state": ("initial ",),
    "moments": ("optimizer ",),
    "parameters": ("weight ",),
}


@dataclass(frozen=True)
class Origin:
    """Where it began, and how it came from there to what was seen.

    Attributes:
        operation: the first that broke, or the first that used what was poisoned.
        chain: from the operation to the one that made the tensor that was seen; for an origin on
            the way to the loss, to the one that made the loss or its gradient.
        cause: why it broke, a sentence.
        reached: what the chain leads to, if that is not what was seen.
    """

    operation: Operation
    chain: tuple[Operation, ...]
    cause: str
    reached: str = ""


@dataclass(frozen=True)
class Columns:
    """Which part of a tensor's last axis belongs to the head in which something was seen.

    For parameters and the state that an optimizer keeps of them: which part of the first axis.
    """

    size: int  # of the axis
    own: range
    of_rows: bool = False

    def excludes(self, operation: Operation) -> bool:
        """Return whether an operation broke such a tensor, and in other columns only."""
        axis = operation.rows if self.of_rows else operation.columns
        if axis is None:
            return False
        size, broken = axis
        return size == self.size and broken.isdisjoint(self.own)


@dataclass(frozen=True)
class _Search:
    """What leads to some operations: where it starts, and the next operation on the way back."""

    towards: dict[Operation, Operation | None]
    starts: tuple[Operation, ...]

    def chain(self, start: Operation) -> tuple[Operation, ...]:
        """Return a shortest way from a start to what was searched from."""
        chain = [start]
        while (after := self.towards[chain[-1]]) is not None:
            chain.append(after)
        return tuple(chain)


def find_origin(
    makers: Iterable[Operation],
    injections: Sequence[str] = (),
    columns: Sequence[Columns] = (),
    to_loss: Iterable[Operation] = (),
) -> Origin | None:
    """Return where a non-finite value began, or None if no operation made it.

    Where the operation leads to a displayed figure only, and another one on the way to the loss
    broke at the same step and host, that one is returned: it is what harmed the training.

    Args:
        makers: the operations that made the tensor in which it was seen.
        injections: drills that were planted, as text.
        columns: the parts of tensors that belong to the head in which it was seen; what broke in
            other parts of such tensors is another failure.
        to_loss: the operations that made the loss, its terms and its gradient in that minibatch.
    """

    def counts(operation: Operation) -> bool:
        return not operation.is_legal and not any(part.excludes(operation) for part in columns)

    search = _search(makers, counts)
    if not search.starts:
        return None
    first = min(search.starts, key=lambda operation: operation.number)
    on_path = _search(to_loss, lambda operation: not operation.is_legal)
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
    """Return the poisoned input that a sighting is of, with the first operation that used it.

    For sightings that no operation made: what was wrong before the update, or broke nothing.

    Args:
        sighting: what was seen.
        poisons: what was wrong before anything was computed.
        taker: returns the first operation that used a poisoned input, or None.

    Returns:
        None if nothing was poisoned, or no operation used it. An input that does not fit the
        sighting is returned only if no other is poisoned.
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
    """Go back from operations through those causes that count."""
    # Breadth first, so that the way back is a shortest one.
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
    """Return whether two operations of one minibatch broke at the same step of the same host."""
    if one.minibatch != other.minibatch or one.places is None or other.places is None:
        return False
    is_same_shape = one.places.shape == other.places.shape
    return is_same_shape and bool((one.places & other.places).any())

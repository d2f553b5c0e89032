"""The policy's last decision, by host and head."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from struct import unpack_from
from typing import Final

from esper.karn.sanctum.schema import DecisionState, HeadDecision
from esper.leyline.heads import ACTIVE_HEADS, HEAD_CHOICES, Op
from esper.leyline.telemetry import DecisionsTaken

_FLOAT_BYTES: Final = 4


def damage_of(taken: DecisionsTaken, heads: Mapping[str, Sequence[str]]) -> str | None:
    """Return what is wrong with a decision; None if it is complete and consistent.

    Args:
        taken: the decision.
        heads: names of the choices of each head, in order.
    """
    hosts = len(taken.actions)
    if not len(taken.probabilities) == len(taken.values) == hosts:
        return "its lists are of different lengths"
    rows: list[Sequence[float]] = [*taken.actions, *taken.probabilities]
    if any(len(row) != len(heads) for row in rows):
        return f"it does not have {len(heads)} heads"
    sizes = [len(choices) for choices in heads.values()]
    for row in taken.actions:
        if not all(0 <= choice < size for choice, size in zip(row, sizes, strict=True)):
            return "a choice is out of range for its head"
    if not taken.distributions:
        return None
    expected = _FLOAT_BYTES * sum(sizes)
    if len(taken.distributions) != hosts:
        return "it does not have the probabilities of every host"
    if any(len(packed) != expected for packed in taken.distributions):
        return f"its probabilities do not have {expected} bytes per host"
    return None


def decision_states(
    taken: DecisionsTaken | None, heads: Mapping[str, Sequence[str]]
) -> tuple[DecisionState, ...]:
    """Return the state of a decision for each host.

    Args:
        taken: an undamaged decision; None before the first.
        heads: as in `damage_of`.
    """
    if taken is None:
        return ()
    sizes = [len(choices) for choices in heads.values()]
    edges = list(pairwise(accumulate(sizes, initial=0)))
    layout = f"<{sum(sizes)}f"
    states = []
    for host, (row, probabilities) in enumerate(
        zip(taken.actions, taken.probabilities, strict=True)
    ):
        packed = taken.distributions[host] if taken.distributions else None
        alternatives = () if packed is None else unpack_from(layout, packed)
        active = _active_heads(heads, row)
        states.append(
            DecisionState(
                host=host,
                update=taken.update,
                step=taken.step,
                heads=tuple(
                    HeadDecision(head, choice, probability, head in active, alternatives[start:end])
                    for head, choice, probability, (start, end) in zip(
                        heads, row, probabilities, edges, strict=True
                    )
                ),
                value=taken.values[host],
            )
        )
    return tuple(states)


def _active_heads(heads: Mapping[str, Sequence[str]], row: Sequence[int]) -> frozenset[str]:
    """Return the heads whose choice mattered; for another agent's heads, all of them."""
    if tuple(heads.get("op", ())) != HEAD_CHOICES["op"]:
        return frozenset(heads)
    return ACTIVE_HEADS[Op(row[list(heads).index("op")])]

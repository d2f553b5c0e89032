"""A finding: one non-finite quantity, with its owner and name."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One non-finite quantity that no other finding explains."""

    owner: str  # a head, a group, or SHARED
    quantity: str
    kind: str  # "nan", "+inf" or "-inf"
    part: str = ""  # the tensor
    environment: int | None = None  # number of the environment that returned it, if one did
    step: int | None = None  # step of that environment, counted from 1; 0: its first reset


#: Findings without their kinds, because a lasting fault may produce Inf first and NaN later.
Look = frozenset[tuple[str, str, str]]


def look_of(found: Iterable[Found]) -> Look:
    """Return owner, quantity and part of the findings."""
    return frozenset((one.owner, one.quantity, one.part) for one in found)

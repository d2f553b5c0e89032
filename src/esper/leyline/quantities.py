"""The quantities that are checked for NaN and Inf, in the order in which an update computes them.

Everything else is derived from this table: the causal order of sightings, the rows and explanations
of `NonfiniteMonitor`, and, together with `esper.simic.agent.detection.readers`, which tensors the
detection of an update and a replay read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Scope(Enum):
    """Where a quantity exists: once per head, once for all heads (shared), or both."""

    HEADS = "heads"
    SHARED = "shared"
    BOTH = "both"


@dataclass(frozen=True)
class Quantity:
    """One watched quantity.

    Attributes:
        name: name under which it is reported and stored.
        scope: whether each head has it, all heads share it, or both.
        explained_by: quantities that explain this one when they are non-finite too. It is then a
            consequence and is not reported. A quantity of a head is explained by that head and by
            shared quantities; a shared quantity is explained by any.
        lasting: stays broken once it is, as parameters do. It explains what later minibatches
            show, and explains nothing in its own minibatch, where it is computed last.
    """

    name: str
    scope: Scope
    explained_by: tuple[str, ...] = ()
    lasting: bool = False


_GIVEN = ("observations", "recurrent_state")
_INPUTS = (*_GIVEN, "trunk", "parameters")
_OF_HEADS = ("logits", "old_log_prob", "log_prob", "ratio", "entropy")
_OF_ALL_HEADS = ("joint_ratio",)
_LOSSES = ("policy_loss", "value_loss", "entropy_loss")
_BEFORE_LOSS = (
    *("loss_scale", *_INPUTS, *_OF_HEADS, *_OF_ALL_HEADS, *_LOSSES),
    *("value", "advantages", "returns"),
)

#: All watched quantities. Of two sightings in one minibatch, the one listed earlier here is nearer
#: to the cause.
QUANTITIES: Final = (
    Quantity("loss_scale", Scope.SHARED),
    Quantity("moments", Scope.BOTH, lasting=True),
    Quantity("observations", Scope.SHARED),
    Quantity("recurrent_state", Scope.SHARED, ("observations", "parameters")),
    # Values were computed while acting, with the same weights and from the same observations.
    Quantity("advantages", Scope.SHARED, (*_GIVEN, "trunk", "value")),
    Quantity("returns", Scope.SHARED, (*_GIVEN, "advantages", "trunk", "value")),
    Quantity("trunk", Scope.SHARED, (*_GIVEN, "parameters")),
    Quantity("logits", Scope.HEADS, _INPUTS),
    # Computed before the first step: parameters that broke later do not explain it.
    Quantity("old_log_prob", Scope.HEADS, (*_GIVEN, "trunk")),
    Quantity("log_prob", Scope.HEADS, _INPUTS),
    Quantity("ratio", Scope.HEADS, _INPUTS),
    Quantity("joint_ratio", Scope.SHARED, (*_INPUTS, *_OF_HEADS)),
    Quantity("entropy", Scope.HEADS, _INPUTS),
    Quantity("value", Scope.SHARED, _INPUTS),
    Quantity("policy_loss", Scope.SHARED, (*_INPUTS, *_OF_HEADS, *_OF_ALL_HEADS, "advantages")),
    Quantity("value_loss", Scope.SHARED, (*_INPUTS, "value", "returns")),
    Quantity("entropy_loss", Scope.SHARED, (*_INPUTS, *_OF_HEADS)),
    Quantity("loss", Scope.SHARED, _BEFORE_LOSS),
    Quantity("gradient", Scope.BOTH, (*_BEFORE_LOSS, "loss")),
    Quantity("parameters", Scope.BOTH, ("moments",), lasting=True),
)

CAUSAL_ORDER: Final = tuple(quantity.name for quantity in QUANTITIES)
#: Names of the quantities that each head has, in causal order.
HEAD_QUANTITIES: Final = tuple(q.name for q in QUANTITIES if q.scope is not Scope.SHARED)
#: Names of the quantities that all heads share, in causal order.
SHARED_QUANTITIES: Final = tuple(q.name for q in QUANTITIES if q.scope is not Scope.HEADS)
EXPLAINED_BY: Final[Mapping[str, tuple[str, ...]]] = {q.name: q.explained_by for q in QUANTITIES}
#: What processes that train together share, so that a fault of one is seen in all of them.
SHARED_BY_RANKS: Final = frozenset({"gradient", "parameters", "moments"})
LASTING: Final = tuple(q.name for q in QUANTITIES if q.lasting)

_RANKS: Final = {name: rank for rank, name in enumerate(CAUSAL_ORDER)}


def causal_rank(quantity: str) -> tuple[int, str]:
    """Return a sort key that puts quantities in causal order, and unknown ones last by name."""
    return _RANKS.get(quantity, len(CAUSAL_ORDER)), quantity

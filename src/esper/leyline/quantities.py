"""What is watched for non-finite values in an update, in causal order: what is born first is first.

Of two sightings in one minibatch the one that stands earlier here is the nearer to the cause. A
quantity that is not listed comes after all that are.
"""

from typing import Final

CAUSAL_ORDER: Final = (
    "loss_scale",
    "moments",
    "observations",
    "recurrent_state",
    "advantages",
    "returns",
    "trunk",
    "logits",
    "old_log_prob",
    "log_prob",
    "ratio",
    "joint_ratio",
    "entropy",
    "value",
    "policy_loss",
    "value_loss",
    "entropy_loss",
    "loss",
    "gradient",
    "parameters",
)
_RANKS: Final = {quantity: rank for rank, quantity in enumerate(CAUSAL_ORDER)}


def causal_rank(quantity: str) -> tuple[int, str]:
    """Return a key that sorts quantities by where in an update they are born."""
    return _RANKS.get(quantity, len(CAUSAL_ORDER)), quantity

"""The free watch over an update: figures that are measured anyway, and are finite unless it broke.

A NaN or an Inf anywhere in a minibatch reaches one of its figures: a loss, a norm, a sum or an
extreme of some head; one that a step of the optimizer made reaches the next minibatch, or the sum
of all parameters after the last. So asking whether all figures are finite costs two small
operations. It does not say which tensor of which head it was; that is `watching`'s part, and only
then.
"""

from torch import Tensor

from esper.leyline.telemetry import SHARED, NonfiniteSighting
from esper.simic.agent.figures import Figures
from esper.simic.agent.losses import Minibatch, MinibatchTerms

#: What a figure that is not finite says of: by head, and of what belongs to no head.
_HEAD_EVIDENCE = {
    "log_prob_min": "log_prob",
    "log_prob_max": "log_prob",
    "ratio_max": "ratio",
    "kl": "ratio",
    "entropy": "entropy",
    "gradient_norm": "gradient",
}
_SHARED_EVIDENCE = {
    "policy_loss": "policy_loss",
    "value_loss": "value_loss",
    "entropy_loss": "entropy_loss",
    "gradient_norm": "gradient",
    "approximate_kl": "joint_ratio",
    "silent_sum": "logits",  # of some head; the sum cannot say which
}


class Screen:
    """Says of each minibatch whether one of its figures is not finite, as a tensor."""

    def forward(
        self, _index: int, _batch: Minibatch, _terms: MinibatchTerms, figures: Tensor
    ) -> Tensor:
        """Return whether the forward pass was bad."""
        return _not_finite(figures)

    def backward(self, _index: int, norms: Tensor) -> Tensor:
        """Return whether the backward pass was bad."""
        return _not_finite(norms)


def _not_finite(figures: Tensor) -> Tensor:
    # 0 times NaN or Inf is NaN, which is equal to nothing; all else sums up to 0.
    return (figures * 0).sum() != 0


def evidence(figures: Figures, minibatches_per_epoch: int) -> list[NonfiniteSighting]:
    """Return what the figures alone say, for an update that broke once and not again.

    The heads whose figures are not finite; if there are none, what else is not.
    """
    seen: dict[tuple[str, str, str], list[int]] = {}
    for minibatch in (figures.tripped & ~figures.overflow).nonzero().flatten().tolist():
        found = [
            (head, quantity, figures.by_head[name][minibatch, column].item())
            for name, quantity in _HEAD_EVIDENCE.items()
            for column, head in enumerate(figures.heads)
        ]
        found = [entry for entry in found if not _is_finite(entry[2])] or [
            (SHARED, quantity, figures.scalars[name][minibatch].item())
            for name, quantity in _SHARED_EVIDENCE.items()
        ]
        for head, quantity, value in found:
            if not _is_finite(value):
                places = seen.setdefault((head, quantity, _kind(value)), [])
                if minibatch not in places:
                    places.append(minibatch)
    if not seen and not _is_finite(figures.parameter_sum):
        seen[SHARED, "parameters", _kind(figures.parameter_sum)] = [len(figures.bad) - 1]
    return [
        NonfiniteSighting(
            head=head,
            quantity=quantity,
            kind=kind,
            count=len(places),
            epoch=places[0] // minibatches_per_epoch + 1,
            minibatch=places[0] % minibatches_per_epoch + 1,
            last_epoch=places[-1] // minibatches_per_epoch + 1,
            last_minibatch=places[-1] % minibatches_per_epoch + 1,
        )
        for (head, quantity, kind), places in seen.items()
    ]


def _is_finite(value: float) -> bool:
    return value - value == 0


def _kind(value: float) -> str:
    return "nan" if value != value else "+inf" if value > 0 else "-inf"

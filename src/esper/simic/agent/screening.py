"""The free watch over an update: figures that are measured anyway, and are finite unless it broke.

A NaN or an Inf anywhere in a minibatch reaches one of its figures: a loss, a norm, a sum or an
extreme of some head; one that a step of the optimizer made reaches the next minibatch, or the norm
of all parameters and moments after the last. The figures come to the host anyway when the update is
over, and it is there that they are asked whether all are finite: on the device, nothing is. A bad
minibatch's step is taken, then, and undone: an update that broke is gone through again from its
start, under `watching`, which says which tensor of which head it was and leaves that step out.
"""

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED, NonfiniteSighting
from esper.simic.agent.figures import Figures
from esper.simic.agent.loss_scale import LossScale
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
    """Leaves a minibatch's step out only where the fp16 loss scale has to know of an overflow."""

    def __init__(self, loss_scale: LossScale) -> None:
        self._loss_scale = loss_scale
        self._good = torch.zeros((), dtype=torch.bool, device=loss_scale.scale.device)

    def forward(self, _index: int, _batch: Minibatch, _terms: MinibatchTerms) -> Tensor:
        """Return whether the forward pass was bad: not known, so no."""
        return self._good

    def backward(self, _index: int, norm: Tensor) -> Tensor:
        """Return whether the gradients, of this norm, overflowed."""
        return ~norm.isfinite() if self._loss_scale.enabled else self._good


def evidence(figures: Figures, minibatches_per_epoch: int) -> list[NonfiniteSighting]:
    """Return what the figures alone say, for an update that broke once and not again.

    Of the first minibatch that broke, since its step was taken and broke all that followed: the
    heads whose figures are not finite; if there are none, what else is not.
    """
    seen: dict[tuple[str, str, str], list[int]] = {}
    for minibatch in (figures.tripped & ~figures.overflow).nonzero().flatten().tolist()[:1]:
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
    if not seen and not _is_finite(figures.state_norm):
        seen[SHARED, "parameters", _kind(figures.state_norm)] = [len(figures.bad) - 1]
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

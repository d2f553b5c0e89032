"""Which tensor of which head went NaN, +Inf or -Inf, found without waiting on the device.

`NonfiniteMonitor` keeps one small boolean tensor on the device, `[minibatch, row, kind]`. A row is
a quantity of one head (`logits` of `op`) or a quantity that belongs to no head (`observations`).
Each minibatch sets its flags there and gets back whether anything was set, as a tensor; the host
reads the whole once, after the update. Only then, and only if something was seen, are consequences
told from causes: NaN in the trunk is one shared failure and not eight broken heads.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import SHARED, NonfiniteSighting

KINDS = ("nan", "+inf", "-inf")

#: Every quantity watched in each head, in causal order.
HEAD_QUANTITIES = ("logits", "old_log_prob", "log_prob", "ratio", "entropy", "gradient")
#: Every quantity watched that belongs to no single head, in causal order.
SHARED_QUANTITIES = (
    "observations",
    "advantages",
    "returns",
    "trunk",
    "value",
    "joint_ratio",
    "policy_loss",
    "value_loss",
    "entropy_loss",
    "gradient",
)

_INPUTS = ("observations", "trunk")
_FORWARD = ("logits", "old_log_prob", "log_prob", "ratio", "entropy")
_LOSSES = ("policy_loss", "value_loss", "entropy_loss")
#: Quantities that, non-finite in the same minibatch, explain why this one is: it is then left out.
EXPLAINED_BY: Mapping[str, tuple[str, ...]] = {
    "advantages": ("observations",),
    "returns": ("observations", "advantages"),
    "trunk": ("observations",),
    "value": _INPUTS,
    **dict.fromkeys(_FORWARD, _INPUTS),
    "joint_ratio": (*_INPUTS, *_FORWARD),
    "policy_loss": (*_INPUTS, *_FORWARD, "joint_ratio", "advantages"),
    "value_loss": (*_INPUTS, "value", "returns"),
    "entropy_loss": (*_INPUTS, *_FORWARD),
    "gradient": (
        *_INPUTS, *_FORWARD, *_LOSSES, "value", "joint_ratio", "advantages", "returns"
    ),
}  # fmt: skip


def kinds_in(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return which kinds of non-finite value stand in each column of `values`.

    Args:
        values: `[…, C]`, any floating type.
        counted: False where a value does not count, `[…, C]`; all count without it.

    Returns:
        `[C, 3]`, bool, in the order of `KINDS`.
    """
    flags = torch.stack((values.isnan(), values == torch.inf, values == -torch.inf), dim=-1)
    if counted is not None:
        flags = flags & counted.unsqueeze(-1)
    return flags.flatten(0, -3).any(0)


@dataclass
class NonfiniteMonitor:
    """Watches any policy's update for non-finite values, head by head.

    Attributes:
        heads: names of the heads, in the order of the last axis of what `see_heads` is given.
        head_quantities: names of what is watched in each head.
        shared_quantities: names of what is watched beside the heads.
        minibatches: how many minibatches one update has at the most.
        device: where the flags live.

    Example:
        >>> monitor = NonfiniteMonitor(("left", "right"), ("logits",), ("loss",), 1)
        >>> monitor.see_heads(0, "logits", torch.tensor([[0.5, float("inf")]]))
        >>> bool(monitor.bad(0))
        True
        >>> [(s.head, s.quantity, s.kind) for s in monitor.sightings(monitor.flags, 1)]
        [('right', 'logits', '+inf')]
    """

    heads: Sequence[str]
    head_quantities: Sequence[str] = HEAD_QUANTITIES
    shared_quantities: Sequence[str] = SHARED_QUANTITIES
    minibatches: int = 1
    device: torch.device | str = "cpu"
    flags: Tensor = field(init=False)  # [minibatch, row, kind], bool

    def __post_init__(self) -> None:
        rows = len(self.head_quantities) * len(self.heads) + len(self.shared_quantities)
        self.flags = torch.zeros(
            self.minibatches, rows, len(KINDS), dtype=torch.bool, device=self.device
        )

    def rows(self) -> list[tuple[str, str]]:
        """Return the (head or SHARED, quantity) of each row of the flags."""
        per_head = [(head, name) for name in self.head_quantities for head in self.heads]
        return per_head + [(SHARED, name) for name in self.shared_quantities]

    def see_heads(
        self, minibatch: int, quantity: str, values: Tensor, counted: Tensor | None = None
    ) -> None:
        """Flag what is non-finite in `values` `[…, H]`; where `counted` is False, nothing is."""
        self.set_heads(minibatch, quantity, kinds_in(values, counted))

    def set_heads(self, minibatch: int, quantity: str, kinds: Tensor) -> None:
        """Flag a quantity's kinds, found elsewhere: `[H, 3]`, bool."""
        start = self.head_quantities.index(quantity) * len(self.heads)
        self.flags[minibatch, start : start + len(self.heads)] |= kinds

    def see_shared(self, minibatch: int, quantity: str, values: Tensor) -> None:
        """Flag what is non-finite in `values`, of any shape."""
        start = len(self.head_quantities) * len(self.heads)
        row = start + self.shared_quantities.index(quantity)
        self.flags[minibatch, row] |= kinds_in(values.reshape(-1, 1))[0]

    def bad(self, minibatch: int) -> Tensor:
        """Return whether anything was flagged in the minibatch: a scalar on the device."""
        return self.flags[minibatch].any()

    def sightings(
        self, flags: Tensor, minibatches_per_epoch: int, excused: Iterable[int] = ()
    ) -> list[NonfiniteSighting]:
        """Return what was seen, causes only, from flags that have been brought to the host.

        Args:
            flags: a host copy of `self.flags`.
            minibatches_per_epoch: how minibatch numbers divide into epochs.
            excused: minibatches whose gradients overflowed by loss scaling, as is ordinary.
        """
        seen: dict[tuple[str, str, str], list[int]] = {}
        for minibatch in flags.flatten(1).any(1).nonzero().flatten().tolist():
            if minibatch in set(excused):
                continue
            for key in self._causes(flags[minibatch]):
                seen.setdefault(key, []).append(minibatch)
        found = [
            NonfiniteSighting(
                head=head,
                quantity=quantity,
                kind=kind,
                count=len(at),
                epoch=at[0] // minibatches_per_epoch + 1,
                minibatch=at[0] % minibatches_per_epoch + 1,
            )
            for (head, quantity, kind), at in seen.items()
        ]
        return sorted(found, key=lambda s: (s.epoch, s.minibatch, causal_rank(s.quantity)))

    def _causes(self, flags: Tensor) -> list[tuple[str, str, str]]:
        """Return the (head, quantity, kind) of one minibatch that nothing earlier explains."""
        rows = self.rows()
        lit = [(*rows[row], KINDS[kind]) for row, kind in flags.nonzero().tolist()]
        bad_quantities = {quantity for _, quantity, _ in lit}
        broken = {head for head, quantity, _ in lit if quantity == "gradient"} - {SHARED}
        all_heads_broken = len(broken) == len(self.heads) > 1
        causes = []
        for head, quantity, kind in lit:
            if bad_quantities & set(EXPLAINED_BY.get(quantity, ())):
                continue
            if quantity == "gradient" and broken:
                # One loss feeds all heads: all at once is its failure, some are their own, and
                # the trunk behind a broken head only passes on what it was sent.
                if all_heads_broken and head != SHARED:
                    continue
                if not all_heads_broken and head == SHARED:
                    continue
            causes.append((head, quantity, kind))
        return causes


def detected(
    heads: Sequence[str], sightings: Iterable[NonfiniteSighting]
) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return `(head_inf_detected, head_nan_detected)`, each with every head."""
    inf, nan = dict.fromkeys(heads, False), dict.fromkeys(heads, False)
    for sighting in sightings:
        if sighting.head != SHARED:
            (nan if sighting.kind == "nan" else inf)[sighting.head] = True
    return inf, nan

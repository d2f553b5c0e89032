"""Detection of NaN, +Inf and -Inf by head and tensor, without device synchronisation.

`NonfiniteMonitor` keeps one small boolean tensor on the device, `[minibatch, row, kind]`. A row is
a quantity of one head (`logits` of `op`) or a quantity that belongs to no head (`observations`).
Each minibatch sets its flags there, and whether any is set is available as a tensor; the host reads
all flags once, after the update. Only then, and only if something was seen, are consequences
separated from causes: NaN in the trunk is one shared failure, not eight failed heads.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from esper.leyline.quantities import (
    EXPLAINED_BY,
    HEAD_QUANTITIES,
    LASTING,
    SHARED_QUANTITIES,
    causal_rank,
)
from esper.leyline.telemetry import SHARED, NonfiniteSighting

KINDS = ("nan", "+inf", "-inf")


def kinds_in(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return which kinds of non-finite value each column of `values` has.

    Args:
        values: values of any floating type, `[…, C]`.
        counted: False where a value is ignored, `[…, C]`; None to count all.

    Returns:
        `[C, 3]`, bool, in the order of `KINDS`.
    """
    flags = torch.stack((values.isnan(), values == torch.inf, values == -torch.inf), dim=-1)
    if counted is not None:
        flags = flags & counted.unsqueeze(-1)
    return flags.reshape(-1, *flags.shape[-2:]).any(0)


@dataclass
class NonfiniteMonitor:
    """Monitor that finds non-finite values in any policy's update, head by head.

    It does not depend on Esper's own policy: the caller defines names and explanations.
    docs/nonfinite.md shows it in a training loop outside Esper.

    Attributes:
        heads: names of the heads, in the order of the last axis of `values` in `see_heads`.
        head_quantities: names of the quantities that are watched in each head.
        shared_quantities: names of the quantities that belong to no head.
        minibatches: maximum number of minibatches in an update.
        device: device of the flags.
        explained_by: for each quantity, the quantities that explain it if they are non-finite too.
        lasting: quantities that stay non-finite once they are, such as parameters.

    Raises:
        ValueError: a method got an unknown quantity, or values without a column for each head.

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
    explained_by: Mapping[str, Sequence[str]] = field(default_factory=lambda: EXPLAINED_BY)
    lasting: Sequence[str] = LASTING
    flags: Tensor = field(init=False)  # [minibatch, row, kind], bool

    def __post_init__(self) -> None:
        names = [*self.heads, SHARED]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"the name {repeated[0]!r} is given twice: heads need different names, and "
                f"{SHARED!r} is the name of what they share"
            )
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
        """Flag non-finite values of a quantity of each head.

        Args:
            minibatch: index of the minibatch in the update.
            quantity: one of `head_quantities`.
            values: values, `[…, H]`.
            counted: False where a value is ignored, `[…, H]`; None to count all.
        """
        if values.shape[-1] != len(self.heads):
            raise ValueError(
                f"{quantity} must have a column for each of {len(self.heads)} heads, "
                f"not {values.shape[-1]}"
            )
        self.set_heads(minibatch, quantity, kinds_in(values, counted))

    def set_heads(self, minibatch: int, quantity: str, kinds: Tensor) -> None:
        """Flag kinds of values that the caller found in a quantity of each head: `[H, 3]`, bool."""
        if kinds.shape != (len(self.heads), len(KINDS)):
            raise ValueError(
                f"the kinds of {quantity} must have the shape [{len(self.heads)}, {len(KINDS)}], "
                f"not {list(kinds.shape)}"
            )
        start = _position(quantity, self.head_quantities) * len(self.heads)
        self.flags[minibatch, start : start + len(self.heads)] |= kinds

    def see_shared(self, minibatch: int, quantity: str, values: Tensor) -> None:
        """Flag non-finite values of a shared quantity; `values` may have any shape."""
        self.set_shared(minibatch, quantity, kinds_in(values.reshape(-1, 1))[0])

    def set_shared(self, minibatch: int, quantity: str, kinds: Tensor) -> None:
        """Flag kinds of values that the caller found in a shared quantity: `[3]`, bool."""
        start = len(self.head_quantities) * len(self.heads)
        row = start + _position(quantity, self.shared_quantities)
        self.flags[minibatch, row] |= kinds

    def bad(self, minibatch: int) -> Tensor:
        """Return whether anything was flagged in the minibatch: a scalar on the device."""
        return self.flags[minibatch].any()

    def sightings(
        self, flags: Tensor, minibatches_per_epoch: int, excused: Iterable[int] = ()
    ) -> list[NonfiniteSighting]:
        """Return the sightings of an update, causes only.

        Args:
            flags: copy of `self.flags` on the host.
            minibatches_per_epoch: number of minibatches in an epoch.
            excused: minibatches whose gradients overflowed by loss scaling, which is ordinary;
                flags of their gradients are ignored.
        """
        seen: dict[tuple[str, str, str], list[int]] = {}
        left_out = set(excused)
        broken_before: set[tuple[str, str]] = set()
        for minibatch in flags.flatten(1).any(1).nonzero().flatten().tolist():
            lit = self._lit(flags[minibatch])
            if minibatch in left_out:
                lit = [key for key in lit if key[1] != "gradient"]
            for key in self._causes(lit, broken_before):
                seen.setdefault(key, []).append(minibatch)
            broken_before |= {(head, name) for head, name, _ in lit if name in self.lasting}
        found = [
            NonfiniteSighting(
                head=head,
                quantity=quantity,
                kind=kind,
                count=len(at),
                epoch=at[0] // minibatches_per_epoch + 1,
                minibatch=at[0] % minibatches_per_epoch + 1,
                last_epoch=at[-1] // minibatches_per_epoch + 1,
                last_minibatch=at[-1] % minibatches_per_epoch + 1,
            )
            for (head, quantity, kind), at in seen.items()
        ]
        # Shared before heads, and Inf before NaN, which is often a consequence of an Inf.
        place = {head: number for number, head in enumerate((SHARED, *self.heads))}
        return sorted(
            found,
            key=lambda s: (s.epoch, s.minibatch, causal_rank(s.quantity), place[s.head], s.kind),
        )

    def _lit(self, flags: Tensor) -> list[tuple[str, str, str]]:
        """Return the (head, quantity, kind) of every flag of one minibatch."""
        rows = self.rows()
        return [(*rows[row], KINDS[kind]) for row, kind in flags.nonzero().tolist()]

    def _causes(
        self, lit: Sequence[tuple[str, str, str]], broken_before: Set[tuple[str, str]]
    ) -> list[tuple[str, str, str]]:
        """Return the sightings of one minibatch that no other sighting explains.

        Args:
            lit: (head, quantity, kind) of each flag.
            broken_before: (head, quantity) of lasting quantities that became non-finite in earlier
                minibatches.
        """
        broken = {(head, name) for head, name, _ in lit if name not in self.lasting} | broken_before
        gradients = {head for head, quantity, _ in lit if quantity == "gradient"}
        heads = gradients - {SHARED}
        is_of_all = SHARED in gradients and len(heads) == len(self.heads) > 1
        causes = []
        for head, quantity, kind in lit:
            if self._is_explained(head, quantity, broken):
                continue
            # All heads share one loss. Gradients that are non-finite in all heads at once are a
            # failure of the loss; in some heads, of these heads, which also affects the trunk.
            if quantity == "gradient" and heads and is_of_all != (head == SHARED):
                continue
            causes.append((head, quantity, kind))
        return causes

    def _is_explained(self, head: str, quantity: str, broken: Set[tuple[str, str]]) -> bool:
        reasons = self.explained_by.get(quantity, ())
        return any(
            name in reasons and (head == SHARED or other in (head, SHARED))
            for other, name in broken
        )


def detected(
    heads: Sequence[str], sightings: Iterable[NonfiniteSighting]
) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return `head_inf_detected` and `head_nan_detected`, each with an entry for every head."""
    inf, nan = dict.fromkeys(heads, False), dict.fromkeys(heads, False)
    for sighting in sightings:
        if sighting.head in inf:
            (nan if sighting.kind == "nan" else inf)[sighting.head] = True
    return inf, nan


def _position(quantity: str, quantities: Sequence[str]) -> int:
    if quantity not in quantities:
        raise ValueError(
            f"{quantity!r} is not among the watched quantities: {', '.join(quantities)}"
        )
    return quantities.index(quantity)

"""The gradient norm of each head and group, once per update."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from esper.leyline.telemetry import SHARED
from esper.watching.model.parts import Part
from esper.watching.model.shards import local


class OwnerNorms:
    """Measures gradient norms of heads and groups at one step; for shards, those in this process.

    Args:
        parts: all parameters with their owners.

    Attributes:
        owners: heads and groups that own parameters, in their order.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._whole = [part for part in parts if part.owner not in ("", SHARED)]
        self._by_rows = [part for part in parts if part.rows]
        names = dict.fromkeys(part.owner for part in self._whole)
        names |= dict.fromkeys(name for part in self._by_rows for name, _ in part.rows)
        self.owners = tuple(names)
        self._measured: Tensor | None = None
        self._number_of = {name: number for number, name in enumerate(names)}

    def measure(self) -> None:
        """Measure all gradients, unless they were measured since the last `take`."""
        if self._measured is None:
            self._measured = self._norms()

    def add(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Add the gradients of an optimizer's parameter groups to those that were measured."""
        more = self._norms(groups)
        if self._measured is not None and more is not None:
            self._measured = torch.hypot(self._measured, more)

    def take(self) -> tuple[tuple[str, ...], Tensor | None]:
        """Return the owners and the measured norm of each, `[owners]`, and forget these norms."""
        measured, self._measured = self._measured, None
        return self.owners, measured

    @torch.no_grad()
    def _norms(self, groups: Sequence[Mapping[str, Any]] | None = None) -> Tensor | None:
        is_own = _every if groups is None else _of(groups).__contains__
        squares: list[Tensor] = []
        owners: list[int] = []
        whole = [
            (local(gradient), self._number_of[part.owner])
            for part in self._whole
            if (gradient := part.parameter.grad) is not None
            and gradient.layout is torch.strided
            and is_own(id(part.parameter))
        ]
        if whole:
            norms = torch._foreach_norm([gradient for gradient, _ in whole])
            squares.append(torch.stack([norm.float() for norm in norms]).square())
            owners += [number for _, number in whole]
        for part in self._by_rows:
            gradient = part.parameter.grad
            if gradient is None or gradient.layout is not torch.strided:
                continue
            if not is_own(id(part.parameter)):
                continue
            gradient = local(gradient)
            if not gradient.numel():
                continue
            own_rows = part.local_rows()
            rows = gradient.reshape(own_rows[-1][1].stop, -1).float().square().sum(1)
            squares.append(rows)
            owners += [self._number_of[name] for name, own in own_rows for _ in own]
        if not squares:
            return None
        values = torch.cat(squares)
        index = torch.tensor(owners, device=values.device)
        return values.new_zeros(len(self.owners)).index_add_(0, index, values).sqrt()


def _every(_parameter: int) -> bool:
    return True


def _of(groups: Sequence[Mapping[str, Any]]) -> set[int]:
    return {id(parameter) for group in groups for parameter in group["params"]}

"""The gradient norm of each head and group, once per update."""

import math
from collections.abc import Callable, Mapping, Sequence
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

    """

    def __init__(self, parts: Sequence[Part]) -> None:
        whole = dict.fromkeys(part.owner for part in parts if part.owner not in ("", SHARED))
        by_rows = dict.fromkeys(name for part in parts for name, _ in part.rows)
        self._owners = tuple(whole | by_rows)
        self._own = [
            (part, [name for name, _ in rows], [len(own) for _, own in rows])
            for part in parts
            if (rows := part.local_rows()) or part.owner in whole
        ]
        self._measured: list[tuple[str, Tensor]] = []

    def measure(self) -> None:
        """Measure all gradients, unless they were measured since the last `take`."""
        if not self._measured:
            self._measured = self._norms(_every)

    def add(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Add the gradients of an optimizer's parameter groups to those that were measured."""
        if self._measured:
            self._measured += self._norms(_of(groups).__contains__)

    def take(self) -> tuple[list[str], list[Tensor]]:
        """Return norms, each with its owner, and forget them; see `of_owners`."""
        measured, self._measured = self._measured, []
        return [owner for owner, _ in measured], [norm for _, norm in measured]

    def of_owners(self, owners: Sequence[str], norms: Sequence[float]) -> dict[str, float]:
        """Return the norm of each owner: the root of the sum of the squares of all its norms.

        There are none if nothing was measured. A norm that is not finite is left out: it is a
        consequence of a reported fault.
        """
        if not owners:
            return {}
        found = dict.fromkeys(self._owners, 0.0)
        for owner, norm in zip(owners, norms, strict=True):
            found[owner] = math.hypot(found[owner], norm)
        return {owner: norm for owner, norm in found.items() if math.isfinite(norm)}

    @torch.no_grad()
    def _norms(self, is_own: Callable[[int], bool]) -> list[tuple[str, Tensor]]:
        owners: list[str] = []
        gradients: list[Tensor] = []
        for part, names, sizes in self._own:
            gradient = part.parameter.grad
            if gradient is None or gradient.layout is not torch.strided:
                continue
            if not is_own(id(part.parameter)):
                continue
            gradient = local(gradient)
            if sizes and gradient.numel():
                owners += names
                gradients += gradient.reshape(sum(sizes), -1).split(sizes)
            if part.owner not in ("", SHARED):
                owners.append(part.owner)
                gradients.append(gradient)
        if not gradients:
            return []
        # Squares of numbers in half precision overflow.
        is_half = any(one.dtype.itemsize < 4 for one in gradients)
        norms = torch._foreach_norm(gradients, 2.0, dtype=torch.float32 if is_half else None)
        return list(zip(owners, norms, strict=True))


def _every(_parameter: int) -> bool:
    return True


def _of(groups: Sequence[Mapping[str, Any]]) -> set[int]:
    return {id(parameter) for group in groups for parameter in group["params"]}

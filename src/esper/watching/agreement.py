"""What a watch does about a bad step: by itself, or together with the other ranks.

All ranks leave out the same optimizer steps, and end training at the same step.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist

from esper.watching.guard import Guard

OnNonfinite = Literal["report", "skip", "halt"]


class Agreement:
    """Decides, with all other ranks, whether the step that comes is a bad one.

    Every rank calls `ask` once before each of its optimizer steps, whatever it saw. So the calls
    match however different the data of the ranks are.

    Args:
        device: of the model; the flags lie there.

    Attributes:
        blamed: the ranks that saw something in the last bad step, this one included.
        is_pending: whether this rank saw something since the last step, while acting.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.blamed: tuple[int, ...] = ()
        self.is_pending = False

    def ask(self, *, is_bad: bool) -> bool:
        """Return whether the step is bad in any rank; this is a collective.

        Without a process group, each rank decides for itself.

        Args:
            is_bad: whether this rank saw something that is not finite.

        Raises:
            RuntimeError: another rank has ended.
        """
        is_bad, self.is_pending = is_bad or self.is_pending, False
        if not (dist.is_available() and dist.is_initialized()):
            return is_bad
        flags = torch.zeros(dist.get_world_size(), dtype=torch.uint8, device=self._device)
        flags[dist.get_rank()] = is_bad
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        blamed = tuple(rank for rank, flag in enumerate(flags.tolist()) if flag)
        if blamed:
            self.blamed = blamed
        return bool(blamed)

    @property
    def others(self) -> tuple[int, ...]:
        """The ranks that saw something in the last bad step, if this rank did not."""
        own = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        return () if own in self.blamed else self.blamed


class Reaction:
    """Does about a bad step what was chosen.

    Args:
        on_nonfinite: what that is.
        agreement: with the other ranks; None: this process decides alone.
        guard: of the watch.
        halt: ends training; it is given the other ranks that saw something, if this one did not.
        leave_out: leaves the step of an optimizer out, with the same ranks.
    """

    def __init__(
        self,
        on_nonfinite: OnNonfinite,
        agreement: Agreement | None,
        guard: Guard,
        halt: Callable[[Sequence[int]], None],
        leave_out: Callable[[torch.optim.Optimizer, Sequence[int]], None],
    ) -> None:
        self._on_nonfinite = on_nonfinite
        self._agreement = agreement
        self._guard = guard
        self._halt = halt
        self._leave_out = leave_out

    def is_bad(self, is_bad_here: bool) -> bool:
        """Return whether the step that comes is bad: here or, if ranks decide, in any of them."""
        if self._agreement is None:
            return is_bad_here
        with self._guard:  # another rank may have ended: the training finds that out by itself
            return self._agreement.ask(is_bad=is_bad_here)
        return is_bad_here

    def to_step(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Leave a bad step out or end training, as it was chosen; None for no optimizer's step."""
        others = () if self._agreement is None else self._agreement.others
        if self._on_nonfinite == "halt":
            self._halt(others)
        if self._on_nonfinite == "skip" and optimizer is not None:
            self._leave_out(optimizer, others)

    def to_acting(self) -> None:
        """End training, if that was chosen: with other ranks, at the step that comes."""
        if self._on_nonfinite != "halt":
            return
        if self._agreement is None:
            self._halt(())
        else:
            self._agreement.is_pending = True

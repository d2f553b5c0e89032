"""Reaction of a watch to a bad step, alone or together with the other ranks.

All ranks skip the same optimizer steps, and end training at the same step.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

import torch
import torch.distributed as dist

from esper.leyline.errors import EsperError
from esper.watching.guard import Guard

_STEPS: Final = 251  # numbers of steps that can be distinguished, in one byte
_UNEVEN: Final = (
    "the ranks call their closures a different number of times: from now on each rank skips its "
    "own steps, or ends by itself"
)
OnNonfinite = Literal["report", "skip", "halt"]


class NonfiniteHalt(SystemExit):
    """Ends the process with exit code 3 because of a non-finite value."""


class UnevenStepsError(EsperError):
    """The ranks do not compute gradients equally often; the message says what follows."""


class Agreement:
    """Decides together with all ranks whether the next optimizer step is bad.

    Every rank calls `ask` once before each of its optimizer steps, so the calls match even if the
    ranks have different data.

    Args:
        device: the model's device, which also holds the flags.

    Attributes:
        blamed: the ranks with a non-finite value in the last bad step, including this one.
        step: number of the current optimizer step of this rank.
        is_pending: whether this rank had a non-finite output since the last step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.blamed: tuple[int, ...] = ()
        self.step = 0
        self.is_pending = False
        self._is_uneven = False

    def ask(self, *, is_bad: bool) -> bool:
        """Return whether the step is bad in any rank; this is a collective operation.

        Without a process group, each rank decides alone.

        Args:
            is_bad: whether this rank has a non-finite value.

        Raises:
            RuntimeError: another rank has ended.
            UnevenStepsError: another rank asks for another step, because the ranks call their
                closures a different number of times. All find out at once, and from then on each
                decides alone.
        """
        is_bad, self.is_pending = is_bad or self.is_pending, False
        if self._is_uneven or not (dist.is_available() and dist.is_initialized()):
            return is_bad
        step = self.step % _STEPS
        flags = torch.zeros(dist.get_world_size() + 2, dtype=torch.uint8, device=self._device)
        flags[dist.get_rank()] = is_bad
        flags[-2], flags[-1] = step, _STEPS - step  # of which the largest are kept
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        *flagged, newest, oldest = flags.tolist()
        if newest != _STEPS - oldest:
            self._is_uneven = True
            raise UnevenStepsError(_UNEVEN)
        blamed = tuple(rank for rank, flag in enumerate(flagged) if flag)
        if blamed:
            self.blamed = blamed
        return bool(blamed)

    @property
    def others(self) -> tuple[int, ...]:
        """The ranks with a non-finite value in the last bad step, if this rank had none."""
        own = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        return () if own in self.blamed else self.blamed


class Reaction:
    """Reacts to a bad step as set by `on_nonfinite`.

    Args:
        on_nonfinite: the watch's setting.
        agreement: agreement with the other ranks; None if this process decides alone.
        guard: the watch's guard.
        halt: ends training; receives the other ranks with a non-finite value, if this one had none.

    Attributes:
        is_alone: whether this process decides alone.
    """

    def __init__(
        self,
        on_nonfinite: OnNonfinite,
        agreement: Agreement | None,
        guard: Guard,
        halt: Callable[[Sequence[int]], None],
    ) -> None:
        self._on_nonfinite = on_nonfinite
        self.is_alone = agreement is None
        self._agreement = agreement
        self._guard = guard
        self._halt = halt

    def is_bad(self, is_bad_here: bool) -> bool:
        """Return whether the next step is bad, here or (if ranks decide together) in any rank."""
        if self._agreement is None:
            return is_bad_here
        with self._guard:  # another rank may have ended, which training detects itself
            return self._agreement.ask(is_bad=is_bad_here)
        return is_bad_here

    def begin_step(self) -> None:
        """Take note that an optimizer step begins."""
        if self._agreement is not None:
            self._agreement.step += 1

    @property
    def changes_steps(self) -> bool:
        """Whether a bad step is not taken."""
        return self._on_nonfinite != "report"

    def to_step(self, leave_out: Callable[[Sequence[int]], None] | None) -> None:
        """Skip a bad step or end training, as set.

        Args:
            leave_out: skips the step; receives the same ranks as `halt`. None if there is no step.
        """
        others = () if self._agreement is None else self._agreement.others
        if self._on_nonfinite == "halt":
            self._halt(others)
        if self._on_nonfinite == "skip" and leave_out is not None:
            leave_out(others)

    def to_output(self) -> None:
        """End training at a bad output if set to "halt"; with other ranks, at the next step."""
        if self._on_nonfinite != "halt":
            return
        if self._agreement is None:
            self._halt(())
        else:
            self._agreement.is_pending = True

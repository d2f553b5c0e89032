"""The response to an update that was not finite: repeat, skip, roll back or halt.

A transient fault needs no response: the second pass of the update was finite. Otherwise the bad
minibatches are skipped, and the mode decides about the update. Repeated skipping becomes rolling
back, and repeated rollbacks end the run, so that no run continues for days without learning.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Action(StrEnum):
    """The response to one update."""

    REPEAT = "repeat"  # its second pass was finite and is used
    SKIP = "skip"  # its bad minibatches were skipped, the others were used
    ROLLBACK = "rollback"  # it was undone
    HALT = "halt"  # it was undone, and training ended


@dataclass(frozen=True)
class Escalation:
    """The mode of responses, and how often they have not helped so far.

    Attributes:
        mode: the first response, the setting `on_nonfinite`.
        patience: number of consecutive bad updates before rolling back, and of consecutive
            rollbacks before a halt.
        bad_in_a_row: bad updates since the last good one.
        rollbacks_in_a_row: rollbacks since the last good update.
    """

    mode: str
    patience: int
    bad_in_a_row: int = 0
    rollbacks_in_a_row: int = 0

    def after_good(self) -> "Escalation":
        """Return the state after an update in which everything was finite."""
        return replace(self, bad_in_a_row=0, rollbacks_in_a_row=0)

    def after_repeated(self) -> tuple["Escalation", Action, str]:
        """Return state, action and reason for an update whose second pass was finite."""
        if self.mode == "halt":
            return self, Action.HALT, "--on-nonfinite halt"
        return self.after_good(), Action.REPEAT, "it was finite when it was repeated"

    def after_bad(self, *, state_is_finite: bool) -> tuple["Escalation", Action, str]:
        """Return state, action and reason for a bad update.

        Args:
            state_is_finite: whether weights and optimizer are valid after it; if not, skipping
                further minibatches cannot help.
        """
        if self.mode == "halt":
            return self, Action.HALT, "--on-nonfinite halt"
        bad = self.bad_in_a_row + 1
        if self.mode == "rollback":
            reason = "--on-nonfinite rollback"
        elif not state_is_finite:
            reason = "the weights or the optimizer were no longer valid"
        elif bad >= self.patience:
            reason = f"{bad} bad updates in a row"
        else:
            return replace(self, bad_in_a_row=bad), Action.SKIP, "--on-nonfinite skip"
        rollbacks = self.rollbacks_in_a_row + 1
        if rollbacks > self.patience:
            given_up = f"{self.patience} rollbacks in a row did not help"
            return self.after_good(), Action.HALT, given_up  # a resume starts counting again
        after = replace(self, bad_in_a_row=bad, rollbacks_in_a_row=rollbacks)
        return after, Action.ROLLBACK, reason

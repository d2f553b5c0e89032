"""What is done about an update that was not finite: repeat, skip, roll back or halt.

A fault that does not repeat leaves nothing to do: the second pass was finite. Otherwise a bad
minibatch's step is left out, and the mode says what an update with one means. Skipping that does
not help becomes rolling back, and rollbacks that do not help end the run: the escalation is
bounded, so that no run burns for days without learning anything.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Action(StrEnum):
    """What was done about one update."""

    REPEAT = (
        "repeat"  # it was finite when it was repeated: the second pass stands, nothing is left out
    )
    SKIP = "skip"  # its bad minibatches were left out, the others were learnt from
    ROLLBACK = "rollback"  # all of it was undone
    HALT = "halt"  # all of it was undone, and training ended


@dataclass(frozen=True)
class Escalation:
    """How often intervening has not helped, so far.

    Attributes:
        mode: one of `config.ON_NONFINITE`: what is done at first.
        patience: the bad update in a row from which on all are rolled back; and how many rollbacks
            in a row there may be: the bad update after them halts the run.
        bad_in_a_row: since the last good update.
        rollbacks_in_a_row: since the last good update.
    """

    mode: str
    patience: int
    bad_in_a_row: int = 0
    rollbacks_in_a_row: int = 0

    def after_good(self) -> "Escalation":
        """Return the state after an update in which everything was finite."""
        return replace(self, bad_in_a_row=0, rollbacks_in_a_row=0)

    def after_repeated(self) -> tuple["Escalation", Action, str]:
        """Return the same for an update that was finite when it was repeated at once."""
        if self.mode == "halt":
            return self, Action.HALT, "--on-nonfinite halt"
        return self.after_good(), Action.REPEAT, "it was finite when it was repeated"

    def after_bad(self, *, state_is_finite: bool) -> tuple["Escalation", Action, str]:
        """Return the state after a bad update, what to do about it, and why that and not less.

        Args:
            state_is_finite: whether weights and optimizer came out of it sound; if not, skipping
                the next bad minibatches cannot help.
        """
        if self.mode == "halt":
            return self, Action.HALT, "--on-nonfinite halt"
        bad = self.bad_in_a_row + 1
        if self.mode == "rollback":
            reason = "--on-nonfinite rollback"
        elif not state_is_finite:
            reason = "the weights or the optimizer were no longer sound"
        elif bad >= self.patience:
            reason = f"{bad} bad updates in a row"
        else:
            return replace(self, bad_in_a_row=bad), Action.SKIP, "--on-nonfinite skip"
        rollbacks = self.rollbacks_in_a_row + 1
        if rollbacks > self.patience:
            given_up = f"{self.patience} rollbacks in a row did not help"
            return self.after_good(), Action.HALT, given_up  # whoever resumes it, tries anew
        after = replace(self, bad_in_a_row=bad, rollbacks_in_a_row=rollbacks)
        return after, Action.ROLLBACK, reason

"""Responds to an update that was not finite: repeats, skips, rolls back or halts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esper.leyline.files.checkpoint_file import CheckpointError
from esper.leyline.telemetry import InterventionTaken, NonfiniteSighting
from esper.leyline.text.sighting_words import what_words
from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.ppo import PPOAgent
from esper.simic.ranks.collectives import Ranks
from esper.simic.training.faults.intervention import Action, Escalation
from esper.simic.training.ranks.shared_state import load_for_all
from esper.simic.training.run_log import RunLog


@dataclass(frozen=True)
class Intervention:
    """The response to one update.

    Attributes:
        action: what was done; None if the update itself was finite.
        reason: with HALT, why training ends, a sentence.
    """

    action: Action | None
    reason: str = ""

    @property
    def is_good(self) -> bool:
        """Whether everything in the update was finite, perhaps only in its second pass."""
        return self.action in (None, Action.REPEAT)


class Recovery:
    """Decides about each update that was not finite, and rolls the agent back if needed.

    Args:
        agent: the agent.
        escalation: the mode, and how often intervening has not helped so far.
        folder: the run's checkpoints, to roll back to.
        log: console and log of the run.
        ranks: the ranks of the run, which decide alike; None for a process that trains alone.
    """

    def __init__(
        self,
        agent: PPOAgent,
        escalation: Escalation,
        folder: Path,
        log: RunLog,
        ranks: Ranks | None = None,
    ) -> None:
        self._ranks = ranks
        self._agent = agent
        self._folder = folder
        self._log = log
        self.escalation = escalation

    def respond(self, update: int, result: UpdateResult) -> Intervention:
        """Respond to an update.

        Args:
            update: number of the update.
            result: its result.
        """
        intervention = Intervention(None)
        if result.figures.head_nonfinite:
            intervention = self._intervene(update, result)
        if intervention.action is None:
            self.escalation = self.escalation.after_good()
        return intervention

    def _intervene(self, update: int, result: UpdateResult) -> Intervention:
        cause = _described(result.figures.head_nonfinite)
        unsound = self._is_unsound()
        if result.start is None and self.escalation.mode != "halt" and not unsound:
            self._log.say(
                f"update {update} was finite; while collecting for it: {cause}", "warning"
            )
            return Intervention(None)
        if (result.start is None or not result.reproduced) and not unsound:
            self.escalation, action, reason = self.escalation.after_repeated()
        else:
            after = self.escalation.after_bad(state_is_finite=not unsound)
            self.escalation, action, reason = after
        if action in (Action.ROLLBACK, Action.HALT) and not self._roll_back(update):
            action = Action.HALT
            reason += "; there is no sound state to go back to"
        self._log.writer.emit(
            InterventionTaken(update=update, action=action.value, cause=cause, reason=reason),
            durable=True,
        )
        if action is Action.HALT:
            return Intervention(action, f"update {update} was not finite: {cause}; {reason}")
        if action is Action.REPEAT:
            self._log.say(f"update {update} was repeated and stands: {cause}, once", "warning")
        if action is Action.ROLLBACK:
            self._log.progress.say(f"update {update} rolled back: {cause} ({reason})")
        return Intervention(action)

    def _is_unsound(self) -> bool:
        """Return whether weights or optimizer make further updates useless, in any rank."""
        return self._agent.agreement.is_any(bool(self._agent.state.unsound()))

    def _roll_back(self, update: int) -> bool:
        """Return the agent to its last finite state, from the last checkpoint if needed.

        Returns:
            Whether there is such a state.
        """
        has_rolled_back = self._agent.state.roll_back()
        if not self._agent.agreement.is_any(not has_rolled_back) and not self._is_unsound():
            return True
        try:
            checkpoint, _ = load_for_all(self._folder, self._agent.device, self._ranks)
        except CheckpointError:
            return False
        if checkpoint is None:
            return False
        self._agent.state.go_back_to(checkpoint.agent)
        self._log.say(
            f"update {update}: went back to the checkpoint of update {checkpoint.update}",
            "warning",
        )
        return True


def _described(sightings: Sequence[NonfiniteSighting]) -> str:
    """Return the first sighting in words, and the number of further ones."""
    words = what_words(sightings[0])
    return f"{words} and {len(sightings) - 1} more" if len(sightings) > 1 else words

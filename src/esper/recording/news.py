"""What a watched run says in the log: each kind of incident once, and how often it came again."""

import logging
from pathlib import Path
from typing import Final

from esper.karn.reports.incident_advice import incidents_command
from esper.leyline.telemetry import IncidentOrigin, NonfiniteSighting
from esper.leyline.text.origin_words import origin_words
from esper.leyline.text.plurals import counted
from esper.leyline.text.sighting_words import joined, what_words, where_words
from esper.watching.recorder import Trouble, UpdateRecord

#: Quantities that are seen after a step, when it cannot be left out any more.
_AFTER_A_STEP: Final = ("parameters", "moments")
#: What `on_nonfinite` does about an incident, for its line.
_EFFECTS: Final = {
    "skip": "; this optimizer step is skipped",
    "halt": "; training ends here",
}

_MOST_NAMED: Final = 4  # of what an incident saw; the others are counted

_log = logging.getLogger("esper")


class News:
    """Says what happens in a watched run: a line for each kind of incident, and numbers.

    Args:
        run: the run's directory.
        on_nonfinite: of the watch.
        rank: of this process; None where it trains alone.

    Attributes:
        last_finding: the last incident that was said, and what to do next; empty before.
    """

    def __init__(self, run: Path, on_nonfinite: str, rank: int | None = None) -> None:
        self._run = run
        self._rank = "" if rank is None else f"rank {rank}: "
        self._on_nonfinite = on_nonfinite
        self._said: set[object] = set()
        self._repeats = 0
        self._steps = 0
        self._skipped = 0
        self._said_skipped = 0
        self.last_finding = ""

    def incident(
        self, trouble: Trouble, seen: list[NonfiniteSighting], origin: IncidentOrigin | None
    ) -> None:
        """Say what happened, or count it if an incident of its kind was said before."""
        kind = kind_of(seen, origin)
        if kind in self._said:
            self._repeats += 1
            return
        self._said.add(kind)
        what = "; ".join(map(_what, seen[:_MOST_NAMED]))
        if len(seen) > _MOST_NAMED:
            what += f"; {len(seen) - _MOST_NAMED} more"
        when = "while acting" if trouble.phase == "acting" else f"minibatch {trouble.minibatch}"
        why = trouble.explanation.why_no_origin
        where = f"; {why}" if why.startswith("no operation") else ""
        if origin is not None:
            where = f"; it {origin_words(origin)}"
        is_step = trouble.phase == "update" and seen[0].quantity not in _AFTER_A_STEP
        effect = _EFFECTS.get(self._on_nonfinite, "") if is_step else ""
        line = f"{self._rank}{what}, update {trouble.update}, {when}{where}{effect}"
        _log.warning("%s", f"{line} (run {self._run}; open it: sanctum)")
        self.last_finding = f"Esper: {line}\nEsper: more about it: {incidents_command(self._run)}"

    def update(self, record: UpdateRecord) -> None:
        """Count what came again; say the skipped steps at 10, 100, 1000 and so on."""
        self._repeats += sum(trouble.is_repeat for trouble in record.troubles)
        if self._on_nonfinite != "skip":
            return
        self._steps += record.steps
        self._skipped += record.left_out
        if len(str(self._skipped)) > len(str(max(self._said_skipped, 9))):
            self._say_skipped(f"after update {record.number}")

    def end(self, status: str, reason: str) -> None:
        """Say what has not been said so far, and, if Esper ended training, that it did.

        Args:
            status: of the run.
            reason: why it ended, a sentence.
        """
        if self._skipped > max(self._said_skipped, 1):
            self._say_skipped("at the end")
        elif self._repeats and not self._skipped:
            times = counted(self._repeats, "time")
            _log.warning("%s", f"what was not finite was seen {times} more (run {self._run})")
        if status == "halted":
            advice = f"what to do next: {incidents_command(self._run)}"
            _log.warning("%s", f"{self._rank}{reason}; {advice}")

    def _say_skipped(self, when: str) -> None:
        self._said_skipped = self._skipped
        steps = f"{self._skipped} of {counted(self._steps, 'optimizer step')}"
        why = "because something was not finite"
        _log.warning("%s", f"{steps} were skipped {why}, counted {when} (run {self._run})")


def _what(seen: NonfiniteSighting) -> str:
    """Return what was seen, and the environment that returned it, where one did."""
    is_given = seen.phase == "environment"
    return joined(what_words(seen), where_words(seen) if is_given else "")


def kind_of(seen: list[NonfiniteSighting], origin: IncidentOrigin | None) -> object:
    """Return what incidents of the same kind have in common: what was seen, and its origin."""
    what = frozenset((one.head, one.quantity, one.kind, one.part, one.phase) for one in seen)
    return what, None if origin is None else (origin.operation, origin.file, origin.line)


def halt_reason(incident: int, ranks: str = "") -> str:
    """Return why a run was halted, in words.

    Args:
        incident: number of the last incident of this process.
        ranks: the other ranks that saw what was not finite, in words; empty if this one did.
    """
    cause = f"of what {ranks} saw" if ranks else f"of incident {incident}"
    return f"Esper ended training with exit code 3 because {cause}, as on_nonfinite='halt' asks"

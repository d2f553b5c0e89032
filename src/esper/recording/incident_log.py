"""Log messages of a watched run: one per kind of incident, and counts of repetitions."""

import logging
from pathlib import Path
from typing import Final

from esper.karn.reports.incident_advice import incidents_command
from esper.leyline.telemetry import IncidentOrigin, NonfiniteSighting
from esper.leyline.text.origin_words import origin_words
from esper.leyline.text.plurals import counted
from esper.leyline.text.sighting_words import joined, minibatch_words, what_words, where_words
from esper.watching.recorder import Trouble, UpdateRecord

#: Quantities checked after the optimizer step, when the step can no longer be skipped.
_AFTER_A_STEP: Final = ("parameters", "moments")
#: Log text for the effect of `on_nonfinite`.
_EFFECTS: Final = {
    "skip": "; this optimizer step is skipped",
    "halt": "; training ends here",
}

_MOST_NAMED: Final = 4  # sightings per line; further ones are counted

_log = logging.getLogger("esper")


class IncidentLog:
    """Logs a line for each kind of incident in a watched run, and counts repetitions.

    Args:
        run: the run's directory.
        on_nonfinite: the watch's setting.
        rank: rank of this process; None if it trains alone.

    Attributes:
        last_finding: text of the last logged incident, with the next command to run; empty if none.
    """

    def __init__(self, run: Path, on_nonfinite: str, rank: int | None = None) -> None:
        self._run = run
        self._rank = "" if rank is None else f"rank {rank}: "
        self._on_nonfinite = on_nonfinite
        self._reported: set[object] = set()
        self._repeats = 0
        self._steps = 0
        self._skipped = 0
        self._reported_skipped = 0
        self.last_finding = ""

    def incident(
        self, trouble: Trouble, seen: list[NonfiniteSighting], origin: IncidentOrigin | None
    ) -> None:
        """Log an incident, or count it if one of the same kind was logged before."""
        kind = kind_of(seen, origin)
        if kind in self._reported:
            self._repeats += 1
            return
        self._reported.add(kind)
        what = "; ".join(map(_what, seen[:_MOST_NAMED]))
        if len(seen) > _MOST_NAMED:
            what += f"; {len(seen) - _MOST_NAMED} more"
        when = (
            "while acting" if trouble.phase == "acting" else minibatch_words(0, trouble.minibatch)
        )
        why = trouble.explanation.why_no_origin
        where = f"; where it began is not known: {why}" if why else ""
        if why.startswith("no operation"):
            where = f"; {why}"
        if origin is not None:
            where = f"; it {origin_words(origin)}"
        is_step = trouble.phase == "update" and seen[0].quantity not in _AFTER_A_STEP
        effect = _EFFECTS.get(self._on_nonfinite, "") if is_step else ""
        line = f"{self._rank}{joined(what, f'update {trouble.update}', when)}{where}{effect}"
        _log.warning("%s", f"{line} (run {self._run}; to open it: sanctum)")
        self.last_finding = f"Esper: {line}\nEsper: more about it: {incidents_command(self._run)}"

    def update(self, record: UpdateRecord) -> None:
        """Count repeated incidents; log the number of skipped steps at 10, 100, 1000 and so on."""
        self._repeats += sum(trouble.is_repeat for trouble in record.troubles)
        if self._on_nonfinite != "skip":
            return
        self._steps += record.steps
        self._skipped += record.left_out
        if len(str(self._skipped)) > len(str(max(self._reported_skipped, 9))):
            self._log_skipped(f"after update {record.number}")

    def end(self, status: str, reason: str) -> None:
        """Log the counts that were not logged yet, and whether Esper ended training.

        Args:
            status: the run's status.
            reason: why it ended, as a sentence.
        """
        if self._skipped > max(self._reported_skipped, 1):
            self._log_skipped("at the end")
        elif self._repeats and not self._skipped:
            times = counted(self._repeats, "time")
            _log.warning("%s", f"non-finite values were seen again {times} (run {self._run})")
        if status == "halted":
            advice = f"what to do next: {incidents_command(self._run)}"
            _log.warning("%s", f"{self._rank}{reason}; {advice}")

    def _log_skipped(self, when: str) -> None:
        self._reported_skipped = self._skipped
        steps = f"{self._skipped} of {counted(self._steps, 'optimizer step')}"
        why = "because of non-finite values"
        _log.warning("%s", f"{steps} were skipped {why} ({when}; run {self._run})")


def _what(seen: NonfiniteSighting) -> str:
    """Return a sighting as text, with the environment if one returned the value."""
    is_given = seen.phase == "environment"
    return joined(what_words(seen), where_words(seen) if is_given else "")


def kind_of(seen: list[NonfiniteSighting], origin: IncidentOrigin | None) -> object:
    """Return a key that is equal for incidents of the same kind (same sightings and origin)."""
    what = frozenset((one.head, one.quantity, one.kind, one.part, one.phase) for one in seen)
    return what, None if origin is None else (origin.operation, origin.file, origin.line)


def halt_reason(incident: int, ranks: str = "") -> str:
    """Return the reason for a halt as text.

    Args:
        incident: number of the last incident of this process.
        ranks: the other ranks with non-finite values, as text; empty if this rank had them.
    """
    cause = f"of non-finite values on {ranks}" if ranks else f"of incident {incident}"
    return f"Esper ended training with exit code 3 because {cause} (on_nonfinite='halt')"

"""What can be done with the incidents of a run: a replay where a capsule allows it, or else a list.

Whether an incident can be repeated is what its capsule says (`IncidentState.can_be_repeated`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esper.karn.reports.run_commands import run_command
from esper.karn.sanctum.schema import IncidentState
from esper.karn.store.rank_folders import rank_folder
from esper.leyline.text.origin_words import no_origin_words, origin_words


@dataclass(frozen=True)
class IncidentAdvice:
    """The next command about the incidents of a run.

    Attributes:
        purpose: of the command, in one word: "replay" or "incidents".
        command: command line, ready to paste.
        why: why none can be repeated, a sentence; empty if the command repeats one.
        tensors: path of the first capsule, whose tensors can be loaded; empty if there is none, and
            where the command repeats an incident.
    """

    purpose: str
    command: str
    why: str = ""
    tensors: str = ""


def advice_on(run: Path, incidents: Sequence[IncidentState]) -> IncidentAdvice | None:
    """Return the next command about the incidents of a run; None if it has none.

    Args:
        run: the run's directory.
        incidents: its incidents, in order of time.
    """
    if not incidents:
        return None
    kept = [one for one in incidents if one.path]
    for incident in kept:
        if incident.can_be_repeated:
            number = () if incident is kept[0] else (incident.number,)  # the first by default
            folder = run if incident is kept[0] else rank_folder(run, incident.rank or 0)
            return IncidentAdvice("replay", run_command(folder, "esper", "replay", more=number))
    command = incidents_command(run)
    if not kept:
        return IncidentAdvice("incidents", command, incidents[0].reason)
    first = kept[0]
    return IncidentAdvice("incidents", command, first.why_not_repeated, str(run / first.path))


def where_it_began(incident: IncidentState) -> str | None:
    """Return where an incident began, or why that is not known; None if only a replay finds it."""
    if incident.origin is not None:
        return origin_words(incident.origin)
    why = incident.no_origin
    return no_origin_words(why) if why else None


def incidents_command(run: Path) -> str:
    """Return the command that lists the incidents of a run."""
    return run_command(run, "esper", "incidents")


def advice_lines(advice: IncidentAdvice) -> list[str]:
    """Return an advice as lines."""
    if advice.purpose == "replay":
        return [f"reproduce the first incident with: {advice.command}"]
    why = f" ({advice.why})" if advice.why else ""
    lines = [f"the source line of each incident: {advice.command}"]
    if advice.tensors:
        load = f'torch.load("{advice.tensors}/capsule.pt", weights_only=True)'
        lines += [f"esper replay cannot repeat them{why}", f"their tensors and weights: {load}"]
    return lines

"""One incident as text: what was seen, what was done about it, and the result of a replay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.labelled_lines import labelled, wrapped
from esper.karn.sanctum.drawing.origin_lines import origin_lines
from esper.karn.sanctum.heads.replaying import ReplayedOperation, ReplayReport
from esper.karn.sanctum.schema import Evidence, IncidentState, SanctumSnapshot
from esper.karn.sanctum.widgets.tamiyo_brain.seen_in_update import seen_in_update
from esper.karn.text.palette import DARK, Palette
from esper.leyline.text.origin_words import cause_words
from esper.leyline.text.rank_words import ranks_words
from esper.leyline.text.sighting_words import KIND_WORDS, joined, minibatch_words
from esper.leyline.text.source_paths import short_path

REPRODUCED: Final = "reproduced"
_CHAIN_SHOWN: Final = 12  # steps; an unrolled LSTM has hundreds
_INTERVENTION: Final = "intervention_taken"


@dataclass(frozen=True)
class ReplayState:
    """The progress or result of a replay."""

    seconds: float = 0.0  # running time
    report: ReplayReport | None = None
    failure: str = ""  # one sentence

    @property
    def is_running(self) -> bool:
        """Whether there is neither a report nor a failure yet."""
        return self.report is None and not self.failure


def incidents_of(evidence: Evidence, incidents: Sequence[IncidentState]) -> list[IncidentState]:
    """Return the incidents that a row of evidence may belong to, the likeliest first.

    An incident belongs to one update. Only the first and the last update of a row are known; of an
    update in between it is only known that something was non-finite.
    """
    within = [
        one for one in incidents if evidence.first_update <= one.update <= evidence.last_update
    ]
    certain = (evidence.first_update, evidence.last_update)
    return sorted(within, key=lambda one: (one.update not in certain, one.update))


def render_incident(
    snapshot: SanctumSnapshot,
    incident: IncidentState,
    replay: ReplayState | None,
    width: int,
    palette: Palette = DARK,
) -> list[Text]:
    """Return everything known about an incident, wrapped to `width` cells.

    Args:
        snapshot: of the run.
        incident: the incident.
        replay: the progress or result of its replay; None if none was started.
        width: in cells.
        palette: the colours to choose from.
    """
    lines = _heading(incident, width, palette)
    lines += labelled(
        "seen", seen_in_update(snapshot.tamiyo.evidence, incident.update), width, palette
    )
    done = [
        entry.text.removeprefix(f"update {incident.update} ")
        for entry in snapshot.log
        if entry.kind == _INTERVENTION and entry.text.startswith(f"update {incident.update} ")
    ]
    if done or not snapshot.run.is_watched:
        lines += labelled("done", done or ["no intervention is recorded"], width, palette)
    lines += origin_lines(incident, width, palette)
    if incident.path or not snapshot.run.is_watched:
        where = incident.path or f"not kept: {incident.reason or 'no reason recorded'}"
        lines += labelled("capsule", [where], width, palette)
        lines.append(Text(no_wrap=True))
        lines += _replay(incident, replay, width, palette)
    return lines


def _heading(incident: IncidentState, width: int, palette: Palette) -> list[Text]:
    line = Text(no_wrap=True).append(f"incident {incident.number}", f"bold {palette.ink}")
    line.append(f"  update {incident.update}", palette.muted)
    if incident.rank is not None:
        line.append(f"  {ranks_words([incident.rank])}", palette.ink)
    if incident.also_in:
        line.append(f", also seen in {ranks_words(incident.also_in)}", palette.muted)
    line.truncate(width, overflow="ellipsis")
    return [line]


def _replay(
    incident: IncidentState, replay: ReplayState | None, width: int, palette: Palette
) -> list[Text]:
    if replay is None:
        if not incident.path:
            return wrapped("It cannot be replayed: its capsule was not kept.", width, palette)
        if not incident.can_be_repeated:
            why = f"It cannot be replayed: {incident.why_not_repeated}."
            return wrapped(f"{why} Its capsule holds weights and tensors.", width, palette)
        line = Text(no_wrap=True).append("r", f"bold {palette.accent}")
        return [line.append(" repeats the update and finds its first bad operation", palette.muted)]
    if replay.is_running:
        dots = "━" * (1 + int(replay.seconds * 2) % 8)
        line = Text(no_wrap=True).append(f"replaying {replay.seconds:.0f} s ", palette.accent)
        return [line.append(dots, palette.accent)]
    if replay.report is None:
        return wrapped(f"! {replay.failure}", width, palette, f"bold {palette.warning}")
    return _report(replay.report, replay.seconds, width, palette)


def _report(report: ReplayReport, seconds: float, width: int, palette: Palette) -> list[Text]:
    style = palette.good if report.verdict == REPRODUCED else palette.warning
    verdict = Text(no_wrap=True).append(report.verdict.upper(), f"bold {style}")
    lines = [verdict.append(f"  in {seconds:.0f} s", palette.muted)]
    for sentence in (*report.differences, *report.remarks):
        lines += wrapped(sentence, width, palette)
    origin = report.origin
    if origin is None:
        if report.seen:
            lines += wrapped("No operation was found that leads to what was seen.", width, palette)
        return lines
    lines += labelled("began in", [origin.op], width, palette, f"bold {palette.critical}")
    lines += labelled("cause", [cause_words(origin.cause)], width, palette, palette.ink)
    lines += labelled("when", [_moment(report, origin)], width, palette)
    lines += labelled("module", [origin.module or "outside any module"], width, palette)
    lines += labelled("backward", [origin.derivative], width, palette)
    lines += labelled("line", [f"{_line_of(origin)}, {origin.function}"], width, palette)
    lines += labelled("", [origin.code], width, palette, palette.accent)
    return lines + labelled("it spread", _chain(report), width, palette)


def _moment(report: ReplayReport, operation: ReplayedOperation) -> str:
    if report.acting:
        return f"{operation.phase}, while acting"
    if operation.minibatch is None:
        return "before the first minibatch"
    return joined(operation.phase, minibatch_words(operation.epoch or 0, operation.minibatch))


def _line_of(operation: ReplayedOperation) -> str:
    return f"{short_path(operation.file)}:{operation.line}"


def _chain(report: ReplayReport) -> list[str]:
    """Return the operations up to the sighting; neighbours of one source line are merged."""
    steps: list[str] = []
    for operation in report.chain:
        step = f"{operation.op}  {operation.module or operation.function}  {_line_of(operation)}"
        if not steps or steps[-1] != step:
            steps.append(step)
    if len(steps) > _CHAIN_SHOWN:
        half = _CHAIN_SHOWN // 2
        steps[half:-half] = [f"… {len(steps) - 2 * half} more"]
    if report.seen:
        seen = report.seen[0]
        kind = KIND_WORDS.get(seen.kind, seen.kind)
        steps.append(f"seen in {seen.head} {seen.quantity} as {kind}")
    return steps

"""One incident as text: what was seen, what was done about it, and the result of a replay."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from esper.karn.sanctum.heads.replaying import ReplayedOperation, ReplayReport
from esper.karn.sanctum.schema import Evidence, IncidentState, SanctumSnapshot
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import display_name
from esper.karn.store.sightings import is_repeated
from esper.karn.text.palette import DARK, Palette
from esper.leyline.telemetry import GROUPS
from esper.leyline.text.sighting_words import (
    KIND_WORDS,
    NOT_REPRODUCED,
    minibatch_words,
    place_words,
    quantity_words,
)
from esper.leyline.text.source_paths import short_path

REPRODUCED: Final = "reproduced"
_LABEL_WIDTH: Final = 11
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
    lines += _field("seen", _sightings(snapshot, incident.update), width, palette)
    done = [
        entry.text.removeprefix(f"update {incident.update} ")
        for entry in snapshot.log
        if entry.kind == _INTERVENTION and entry.text.startswith(f"update {incident.update} ")
    ]
    lines += _field("done", done or ["no intervention is recorded"], width, palette)
    where = incident.path or f"not kept: {incident.reason or 'no reason recorded'}"
    lines += _field("capsule", [where], width, palette)
    lines.append(Text(no_wrap=True))
    return lines + _replay(incident, replay, width, palette)


def _heading(incident: IncidentState, width: int, palette: Palette) -> list[Text]:
    line = Text(no_wrap=True).append(f"incident {incident.number}", f"bold {palette.ink}")
    line.append(f"  update {incident.update}", palette.muted)
    line.truncate(width, overflow="ellipsis")
    return [line]


def _sightings(snapshot: SanctumSnapshot, update: int) -> list[str]:
    """Return the sightings known from an update, in the order of the evidence."""
    seen = []
    for one in snapshot.tamiyo.evidence:
        who = GROUPS.get(one.head) or display_name(one.head)
        kind = KIND_WORDS.get(one.kind, one.kind)
        if update == one.first_update:
            phase = one.first_phase
            quantity = quantity_words(one.quantity, one.first_part)
            words = place_words(one.first_phase, one.first_host, one.first_step, one.other_hosts)
            place = _place(one.first_epoch, one.first_minibatch, words, "from")
        elif update == one.last_update:
            phase = one.last_phase
            quantity = quantity_words(one.quantity, one.last_part)
            words = place_words(one.last_phase, None, None)
            place = _place(one.last_epoch, one.last_minibatch, words, "up to")
        else:
            continue
        again = f", {NOT_REPRODUCED}" if is_repeated(phase) and not one.reproduced else ""
        seen.append(f"{who}: {kind} in {quantity}{place}{again}")
    return seen or ["not recorded: a run keeps first and last sightings only; a replay shows it"]


def _place(epoch: int, minibatch: int, words: str, preposition: str) -> str:
    when = minibatch_words(epoch, minibatch)
    at = f" {preposition} {when}" if when else ""
    return at + (f", {words}" if words else "")


def _replay(
    incident: IncidentState, replay: ReplayState | None, width: int, palette: Palette
) -> list[Text]:
    if replay is None:
        if not incident.path:
            return _wrapped("It cannot be replayed: its capsule was not kept.", width, palette)
        line = Text(no_wrap=True).append("r", f"bold {palette.accent}")
        return [line.append(" repeats the update and finds its first bad operation", palette.muted)]
    if replay.is_running:
        dots = "━" * (1 + int(replay.seconds * 2) % 8)
        line = Text(no_wrap=True).append(f"replaying {replay.seconds:.0f} s ", palette.accent)
        return [line.append(dots, palette.accent)]
    if replay.report is None:
        return _wrapped(f"! {replay.failure}", width, palette, f"bold {palette.warning}")
    return _report(replay.report, replay.seconds, width, palette)


def _report(report: ReplayReport, seconds: float, width: int, palette: Palette) -> list[Text]:
    style = palette.good if report.verdict == REPRODUCED else palette.warning
    verdict = Text(no_wrap=True).append(report.verdict.upper(), f"bold {style}")
    lines = [verdict.append(f"  in {seconds:.0f} s", palette.muted)]
    for sentence in (*report.differences, *report.remarks):
        lines += _wrapped(sentence, width, palette)
    origin = report.origin
    if origin is None:
        if report.seen:
            lines += _wrapped("No operation was found that leads to what was seen.", width, palette)
        return lines
    lines += _field("began in", [origin.op], width, palette, f"bold {palette.critical}")
    lines += _field("cause", [origin.cause], width, palette, palette.ink)
    lines += _field("when", [_moment(origin)], width, palette)
    lines += _field("module", [origin.module or "outside any module"], width, palette)
    lines += _field("backward", [origin.derivative], width, palette)
    lines += _field("line", [f"{_line_of(origin)}, {origin.function}"], width, palette)
    lines += _field("", [origin.code], width, palette, palette.accent)
    return lines + _field("it spread", _chain(report), width, palette)


def _moment(operation: ReplayedOperation) -> str:
    if operation.epoch is None or operation.minibatch is None:
        return "before the first minibatch"
    return f"{operation.phase}, epoch {operation.epoch}, minibatch {operation.minibatch}"


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


def _field(
    name: str, texts: Sequence[str], width: int, palette: Palette, style: str = ""
) -> list[Text]:
    """Return a name and its texts, each on a new line."""
    lines = []
    label = name
    indent = max(_LABEL_WIDTH, len(name) + 1)
    for text in texts:
        for wrapped in textwrap.wrap(text, max(8, width - indent), subsequent_indent="  "):
            line = Text(no_wrap=True).append(label.ljust(indent), palette.muted)
            lines.append(line.append(wrapped, style or palette.ink))
            label = ""
    return lines


def _wrapped(sentence: str, width: int, palette: Palette, style: str = "") -> list[Text]:
    return [
        Text(line, style=style or palette.muted, no_wrap=True)
        for line in textwrap.wrap(sentence, max(8, width), subsequent_indent="  ")
    ]

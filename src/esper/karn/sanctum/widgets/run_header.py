"""The run header: which run this is, whether it lives, how far it has come and how fast."""

from typing import Final

from rich.text import Text

from esper.karn.liveness import RunStatus, StatusKind
from esper.karn.sanctum.schema import InterventionState, RunState
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.charts import progress_bar
from esper.karn.sanctum.widgets.figures import ABSENT, count, duration
from esper.karn.sanctum.widgets.palette import DARK, Palette
from esper.karn.sanctum.widgets.panel import Panel

_SEPARATOR: Final = "  "
_MOVING: Final = (StatusKind.LIVE, StatusKind.STALLED, StatusKind.STALE)


def status_text(status: RunStatus, palette: Palette) -> Text:
    """Return the status in a word, with how long a silent run has been silent."""
    word = str(status.kind)
    if status.kind == StatusKind.STALE and status.seconds is not None:
        word += f" {status.seconds:.0f} s"
    style = {
        StatusKind.LIVE: palette.good,
        StatusKind.FINISHED: palette.accent,
        StatusKind.STOPPED: palette.accent,
        StatusKind.STALLED: palette.warning,
        StatusKind.STALE: palette.warning,
        StatusKind.UNREADABLE: palette.warning,
        StatusKind.HALTED: palette.critical,
        StatusKind.FAILED: palette.critical,
        StatusKind.DEAD: palette.critical,
    }.get(status.kind, palette.muted)
    return Text(word, style=f"bold {style}")


def moment_text(view: View, palette: Palette) -> Text:
    """Return the status; of a past moment, which one it is, and that the status is of now."""
    status = status_text(view.status, palette)
    if view.position is None:
        return status
    text = Text(no_wrap=True).append(
        f" {view.position} ", f"bold {palette.on_alert} on {palette.accent}"
    )
    return text.append("  now ", palette.muted).append_text(status)


def elapsed_seconds(view: View) -> float | None:
    """Return how long the run has been going, went on for, or had been going at a past moment."""
    run = view.snapshot.run
    if run.started_at is None:
        return None
    is_now = view.status.kind in _MOVING and view.position is None
    end = view.now if is_now else run.last_event_at
    return max(0.0, (run.started_at if end is None else end) - run.started_at)


def render_header(view: View, width: int, height: int, palette: Palette = DARK) -> Text:
    """Return the header in `width` cells and 2 lines, or up to 4 where there are that many."""
    run = view.snapshot.run
    elapsed = duration(elapsed_seconds(view))
    identity = Text(no_wrap=True).append(_name(view), f"bold {palette.ink}")
    identity.append(_SEPARATOR).append_text(moment_text(view, palette))
    progress = _progress(run, width, palette)
    rates = _fields(
        [("steps/s", count(run.steps_per_second)), ("samples/s", count(run.samples_per_second))],
        palette,
    )
    time = _fields([("elapsed", elapsed)], palette)
    losses = _losses(run, palette)
    taken = _interventions(view.snapshot.interventions, view.status, palette)
    incidents = _incidents(view.snapshot.interventions, palette)
    if height >= 4:
        last = _join([losses, rates, time, incidents])
        lines = [_join([identity, taken]), _fields(_details(run), palette), progress, last]
    else:
        identity = _join([identity, taken])
        if width - time.cell_len >= identity.cell_len + incidents.cell_len + 2 * len(_SEPARATOR):
            identity = _join([identity, incidents])
        room = width - identity.cell_len - time.cell_len - 2 * len(_SEPARATOR)
        fields = _details(run)
        while fields and _fields(fields, palette).cell_len > room:
            fields.pop()
        first = _join([identity, _fields(fields, palette)])
        lines = [_right_aligned(first, time, width), _join([progress, losses, rates])]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _name(view: View) -> str:
    """Return the run's name: before it has said any, its directory's."""
    run = view.snapshot.run
    unsaid = ABSENT if view.directory is None else view.directory.name
    return run.name or run.run_id or unsaid


def _details(run: RunState) -> list[tuple[str, str]]:
    fields = [("task", run.task)] if run.task else []
    if run.environments:
        fields.append(("hosts", str(run.environments)))
    if run.device:
        fields.append(("on", run.device))
    if run.seed is not None:
        fields.append(("seed", str(run.seed)))
    if run.host_parameters:
        fields.append(("host parameters", count(run.host_parameters)))
    return fields


def _progress(run: RunState, width: int, palette: Palette) -> Text:
    line = _fields([("update", str(run.update))], palette)
    episodes = f"{run.episodes_done}/{run.episodes}" if run.episodes else ABSENT
    line.append(_SEPARATOR).append_text(_fields([("episodes", episodes)], palette))
    share = run.episodes_done / run.episodes if run.episodes else 0.0
    line.append(" ").append_text(progress_bar(share, max(6, min(28, width // 6)), palette))
    return line.append(f" {100 * share:.0f}%" if run.episodes else "", palette.muted)


def _interventions(done: InterventionState, status: RunStatus, palette: Palette) -> Text:
    """Return what was done about updates that were not finite: nothing, on a good day.

    That a run was halted is its status, and not said again.
    """
    halts = done.halts - (status.kind == StatusKind.HALTED)
    taken = [
        f"{number} {what}"
        for number, what in (
            (done.updates_repeated, "repeated"),
            (done.updates_skipped, "skipped"),
            (done.updates_rolled_back, "rolled back"),
            (halts, "halted before" if status.kind == StatusKind.HALTED else "halted"),
        )
        if number
    ]
    return Text(", ".join(taken), style=palette.warning)


def _incidents(done: InterventionState, palette: Palette) -> Text:
    if not done.incidents:
        return Text()
    line = Text(no_wrap=True).append("incidents ", palette.muted)
    line.append(str(done.incidents), palette.ink)
    if done.incidents_not_kept:
        line.append(f", not kept {done.incidents_not_kept}", palette.muted)
    return line


def _losses(run: RunState, palette: Palette) -> Text:
    """Return what the monitor lost or could not read, which is nothing on a good day."""
    lost = [
        f"{number} {what}"
        for number, what in (
            (run.events_lost, "events lost"),
            (run.damaged_events, "damaged events"),
            (run.unknown_events, "unknown events"),
        )
        if number
    ]
    return Text(", ".join(lost), style=palette.warning)


def _fields(fields: list[tuple[str, str]], palette: Palette) -> Text:
    """Return names with their values: what is counted comes first, a quality comes last."""
    line = Text(no_wrap=True)
    for index, (name, value) in enumerate(fields):
        line.append(_SEPARATOR if index else "")
        if name.endswith("/s"):
            line.append(value, palette.ink).append(f" {name}", palette.muted)
        else:
            line.append(f"{name} ", palette.muted).append(value, palette.ink)
    return line


def _join(parts: list[Text]) -> Text:
    return Text(_SEPARATOR, no_wrap=True).join([part for part in parts if part.cell_len])


def _right_aligned(left: Text, right: Text, width: int) -> Text:
    left.truncate(max(0, width - right.cell_len - 1), overflow="ellipsis", pad=True)
    return left.append(" ").append_text(right)


class RunHeader(Panel, can_focus=False):
    """Shows the run as a whole."""

    IS_RESTLESS = True

    def part(self, view: View) -> object:
        run, status = view.snapshot.run, moment_text(view, DARK).plain
        elapsed = duration(elapsed_seconds(view))
        return run, view.snapshot.interventions, status, elapsed, _name(view)

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_header(view, width, height, palette)

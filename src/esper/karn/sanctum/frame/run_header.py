"""The run header: name, status, progress, speed and machine of the run."""

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from esper.karn.sanctum.drawing.charts import progress_bar
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_times import (
    elapsed_seconds,
    planned_episodes,
    progress_share,
    remaining_seconds,
)
from esper.karn.sanctum.schema import InterventionState, MachineState, RunState
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.text.columns import fitted, joined
from esper.karn.text.figures import ABSENT, bytes_text, count, duration, span_text
from esper.karn.text.light_signs import LIT
from esper.karn.text.palette import DARK, Palette
from esper.karn.text.run_names import without_creation_time
from esper.karn.text.status_text import status_text
from esper.leyline.telemetry import STALLED_UPDATES
from esper.leyline.text.rank_words import ranks_words
from esper.leyline.text.sighting_words import joined as joined_words

#: Lines for everything, and for the most important parts.
FULL_HEIGHT: Final = 5
COMPACT_HEIGHT: Final = 3
_SEPARATOR: Final = "  "
_TRAINING: Final = (StatusKind.STARTING, StatusKind.LIVE, StatusKind.STUCK)
_BEFORE: Final = (StatusKind.WAITING, StatusKind.STARTING)


def moment_text(view: View, palette: Palette) -> Text:
    """Return the status; for a past moment, the moment and then the status of now."""
    status = status_text(view.status, palette)
    if view.position is None:
        return status
    text = Text(no_wrap=True).append(
        f" {view.position} ", f"bold {palette.on_alert} on {palette.accent}"
    )
    return text.append("  now ", palette.muted).append_text(status)


def render_header(view: View, width: int, height: int, palette: Palette = DARK) -> Text:
    """Return the header in `width` cells, as 2, 3 or 5 lines.

    Parts that do not fit in a line are left out whole, the least important first.
    """
    run, interventions = view.snapshot.run, view.snapshot.interventions
    identity = _identity(_name(view), view, palette)
    progress = _progress(view, width, palette)
    steps = _rate("steps/s", run.steps_per_second, palette)
    samples = _rate("samples/s", run.samples_per_second, palette)
    times = _times(view, palette)
    losses = _losses(run, palette)
    taken = _interventions(interventions, view.status, palette)
    incidents = _incidents(interventions, palette, is_watched=run.is_watched)
    machine, gpu = _machine(view.snapshot.machine, palette)
    shares = _shares(view, palette)
    doing = _doing(view, palette)
    details = [_fields([one], palette) for one in _details(view)]
    stalled = _stalled(view, palette)
    if height >= FULL_HEIGHT:
        lines = [
            fitted(identity, [stalled, taken, incidents], width),
            fitted(Text(), details, width),
            fitted(progress, [doing, losses, _step(run, palette)], width),
            fitted(Text(), [*times, steps, samples], width),
            fitted(Text(), [machine, gpu, shares], width),
        ]
    else:
        named = joined([identity, stalled, taken])
        whole = named.cell_len + len(_SEPARATOR) + joined(times).cell_len
        if whole > width:  # the times matter more than the creation time
            named = joined(
                [_identity(without_creation_time(_name(view)), view, palette), stalled, taken]
            )
        clock = fitted(times[0], times[1:], width - named.cell_len - len(_SEPARATOR))
        room = width - clock.cell_len - len(_SEPARATOR)
        how_fast = [steps, samples] if height >= COMPACT_HEIGHT else [steps, machine, gpu, samples]
        if run.is_watched:  # what is watched comes before the machine
            how_fast, details = [*details, *how_fast], []
        extras = [incidents] if height >= COMPACT_HEIGHT else [incidents, *details]
        first = fitted(named, extras, room)
        lines = [
            _right_aligned(first, clock, width),
            fitted(progress, [doing, losses, *how_fast], width),
        ]
        if height >= COMPACT_HEIGHT:
            lines.append(fitted(Text(), [machine, gpu, shares, *details], width))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True).join(lines)


def _identity(name: str, view: View, palette: Palette) -> Text:
    line = Text(no_wrap=True).append(name, f"bold {palette.ink}")
    return line.append(_SEPARATOR).append_text(moment_text(view, palette))


def _name(view: View) -> str:
    """Return the run's name; before its first event, that of its directory."""
    run = view.snapshot.run
    unknown = ABSENT if view.directory is None else view.directory.name
    return run.name or run.run_id or unknown


def _details(view: View) -> list[tuple[str, str]]:
    run, plan = view.snapshot.run, view.plan
    task = run.task or (plan.task if plan else "")
    hosts = run.environments or (plan.environments if plan else 0)
    fields = [("library", run.library)] if run.is_watched else []
    if task:
        fields.append(("task", task))
    if hosts:
        fields.append(("hosts", str(hosts)))
    if run.world_size > 1:
        fields.append(("ranks", _ranks(view)))
    if run.device:
        fields.append(("on", run.device))
    if run.seed is not None:
        fields.append(("random seed", str(run.seed)))
    if run.host_parameters:
        fields.append(("host parameters", count(run.host_parameters)))
    return fields


def _ranks(view: View) -> str:
    """Return the number of ranks and, for a run that has not ended, which of them do not train."""
    size = view.snapshot.run.world_size
    ranks = [one for one in view.ranks if one.rank < size]
    training = sum(one.status.kind in _TRAINING for one in ranks)
    is_past = view.status.is_over or view.position is not None
    if is_past or not view.ranks or training >= size:
        return str(size)
    silent = [one.rank for one in ranks if one.status.kind is StatusKind.STALE]
    missing = [one.rank for one in ranks if not one.has_store]
    gone = [one.rank for one in ranks if one.status.is_over]
    which = joined_words(
        f"{ranks_words(gone)} gone" if gone else "",
        f"{ranks_words(silent)} silent" if silent else "",
        f"{ranks_words(missing)} without a store" if missing else "",
    )
    return f"{training} of {size}" + (f" ({which})" if which else "")


def _progress(view: View, width: int, palette: Palette) -> Text:
    run, planned = view.snapshot.run, planned_episodes(view)
    line = _fields([("update", str(run.update))], palette)
    if not planned and view.is_of_script:
        return line  # how long it will train is not known
    episodes = f"{run.episodes_done}/{planned}" if planned else ABSENT
    line.append(_SEPARATOR).append_text(_fields([("episodes", episodes)], palette))
    share = progress_share(view)
    line.append(" ").append_text(progress_bar(share, max(6, min(28, width // 8)), palette))
    return line.append(f" {100 * share:.0f}%" if planned else "", palette.muted)


def _doing(view: View, palette: Palette) -> Text:
    """Return the start-up phase of a run that does not train yet."""
    if view.status.kind not in _BEFORE or view.position is not None:
        return Text()
    if view.directory is None:
        return Text()
    starting = "the script has not called esper.watch yet"
    if not view.is_of_script:
        starting = "starting the training process"
    doing = view.snapshot.run.reason or starting
    return Text(f"{doing} …", style=f"bold {palette.accent}")


def _rate(name: str, value: float | None, palette: Palette) -> Text:
    return Text() if value is None else _fields([(name, count(value))], palette)


def _step(run: RunState, palette: Palette) -> Text:
    if not (run.steps and run.step):
        return Text()
    return _fields([("step", f"{run.step}/{run.steps}")], palette)


def _times(view: View, palette: Palette) -> list[Text]:
    """Return the elapsed and the remaining time."""
    times = [_fields([("elapsed", duration(elapsed_seconds(view)))], palette)]
    left = remaining_seconds(view)
    if left is not None:
        times.append(_fields([("left", span_text(left))], palette))
    return times


def _interventions(done: InterventionState, status: RunStatus, palette: Palette) -> Text:
    """Return what was done about non-finite updates; empty if nothing was.

    A halt that is the run's status is not repeated.
    """
    halts = done.halts - (status.kind == StatusKind.HALTED)
    counts = {
        "repeated": done.updates_repeated,
        "skipped": done.updates_skipped,
        "rolled back": done.updates_rolled_back,
        "halted before" if status.kind == StatusKind.HALTED else "halted": halts,
    }
    return _warning(counts, palette)


def _stalled(view: View, palette: Palette) -> Text:
    """Return the light of training that moves no weight; empty unless it is on."""
    training = view.snapshot.training
    if not training.stalled_latch:
        return Text()
    line = Text(f"{LIT} stalled", style=f"bold {palette.critical}", no_wrap=True)
    return line.append(" now" if training.still_updates >= STALLED_UPDATES else " before")


def _incidents(done: InterventionState, palette: Palette, *, is_watched: bool) -> Text:
    """Return the number of incidents; without a number that no run of its kind could lower."""
    if not done.incidents:
        return Text()
    line = Text(no_wrap=True).append("incidents ", palette.muted)
    line.append(str(done.incidents), palette.ink)
    if done.incidents_not_kept and not (is_watched and done.incidents_not_kept == done.incidents):
        line.append(f", not kept {done.incidents_not_kept}", palette.muted)
    return line


def _losses(run: RunState, palette: Palette) -> Text:
    """Return what the monitor lost or could not read, and how often it failed; empty if nothing."""
    counts = {
        "events lost": run.events_lost,
        "damaged events": run.damaged_events,
        "unknown events": run.unknown_events,
        "monitor failures": run.monitor_failures,
    }
    return _warning(counts, palette)


def _warning(counts: dict[str, int], palette: Palette) -> Text:
    """Return the counts that are not 0."""
    return Text(
        ", ".join(f"{count} {what}" for what, count in counts.items() if count),
        style=palette.warning,
    )


def _machine(machine: MachineState, palette: Palette) -> tuple[Text, Text]:
    """Return CPU and memory use of the trainer and its workers, and that of the GPU."""
    fields = []
    if machine.cpu_percent is not None:
        fields.append(("CPU", f"{machine.cpu_percent:.0f}%"))
    if machine.memory_bytes is not None:
        fields.append(("memory", bytes_text(machine.memory_bytes)))
    gpu = []
    if machine.gpu_percent is not None:
        gpu.append(f"{machine.gpu_percent:.0f}%")
    if machine.gpu_memory_bytes is not None:
        of = f" of {bytes_text(machine.gpu_total_bytes)}" if machine.gpu_total_bytes else ""
        gpu.append(f"{bytes_text(machine.gpu_memory_bytes)}{of}")
    parts = _fields([("GPU", ", ".join(gpu))], palette) if gpu else Text()
    return _fields(fields, palette), parts


def _shares(view: View, palette: Palette) -> Text:
    """Return how the time of the last update was divided."""
    shares = view.snapshot.training.time_shares
    if not shares:
        return Text()
    line = Text(no_wrap=True).append("time: ", palette.muted)
    for index, (name, share) in enumerate(shares.items()):
        line.append(", " if index else "", palette.muted)
        line.append(f"{name} ", palette.muted).append(f"{100 * share:.0f}%", palette.ink)
    return line


def _fields(fields: Sequence[tuple[str, str]], palette: Palette) -> Text:
    """Return names with their values; for rates, the value comes first."""
    line = Text(no_wrap=True)
    for index, (name, value) in enumerate(fields):
        line.append(_SEPARATOR if index else "")
        if name.endswith("/s"):
            line.append(value, palette.ink).append(f" {name}", palette.muted)
        else:
            line.append(f"{name} ", palette.muted).append(value, palette.ink)
    return line


def _right_aligned(left: Text, right: Text, width: int) -> Text:
    left.truncate(max(0, width - right.cell_len - 1), overflow="ellipsis", pad=True)
    return left.append(" ").append_text(right)


class RunHeader(Panel, can_focus=False):
    """Shows name, status, progress, speed and machine of the run."""

    IS_RESTLESS = True

    def part(self, view: View) -> object:
        run, status = view.snapshot.run, moment_text(view, DARK).plain
        elapsed, left = duration(elapsed_seconds(view)), remaining_seconds(view)
        shown = status, elapsed, None if left is None else span_text(left), _name(view), view.plan
        snapshot = view.snapshot
        training = snapshot.training
        stalled = training.stalled_latch, training.still_updates >= STALLED_UPDATES
        done = snapshot.interventions
        ranks = _ranks(view)
        return run, done, snapshot.machine, training.time_shares, ranks, *stalled, *shown

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        return render_header(view, width, height, palette)

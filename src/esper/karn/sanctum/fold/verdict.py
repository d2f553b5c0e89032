"""The verdict on a run: its health, from its lights, its figures and its process."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Final

from esper.karn.sanctum.fold.attention import STALLED_LIGHT, Light, light_of, lit_lights
from esper.karn.sanctum.fold.doubt import NO_DOUBT, Doubt
from esper.karn.sanctum.fold.event_log import first_out
from esper.karn.sanctum.schema import RunState, SanctumSnapshot, TamiyoState, TrainingState
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.leyline.head_figures import JUDGED_FIGURES, HeadFigure
from esper.leyline.health import (
    HEALTHY,
    Level,
    Verdict,
    combine,
    judge_figure,
    judge_heads,
    judge_latches,
)
from esper.leyline.records import record_of
from esper.leyline.telemetry import SHARED, STALLED_UPDATES
from esper.leyline.text.sighting_words import KIND_WORDS

#: Figures of a whole update that are judged, by the path of their record.
_TRAINING_FIGURES: Final[Mapping[str, Callable[[TrainingState], float | None]]] = {
    "training.minibatches_skipped": lambda training: training.minibatches_skipped,
    "training.loss_scale": lambda training: training.loss_scale,
    "training.approximate_kl": lambda training: training.approximate_kl,
    "training.clip_fraction": lambda training: training.clip_fraction,
    "training.gradient_norm": lambda training: training.gradient_norm,
    "training.explained_variance": lambda training: training.explained_variance,
}
#: Figures of a run that are judged, by the path of their record.
_RUN_FIGURES: Final[Mapping[str, Callable[[RunState], float]]] = {
    "run.events_lost": lambda run: run.events_lost,
    "run.damaged_events": lambda run: run.damaged_events,
    "run.unknown_events": lambda run: run.unknown_events,
    "run.monitor_failures": lambda run: run.monitor_failures,
}

_STATUS_LEVELS: Final = {
    StatusKind.HALTED: Level.CRITICAL,
    StatusKind.FAILED: Level.CRITICAL,
    StatusKind.DEAD: Level.CRITICAL,
    StatusKind.DEGRADED: Level.CRITICAL,
    StatusKind.STUCK: Level.WARNING,
    StatusKind.STALE: Level.WARNING,
    StatusKind.UNREADABLE: Level.WARNING,
    StatusKind.STOPPED: Level.NOTICE,
}


def master_verdict(
    snapshot: SanctumSnapshot,
    status: RunStatus,
    acknowledged: Collection[Light] = (),
    doubt: Doubt = NO_DOUBT,
) -> Verdict:
    """Return the verdict on a run.

    Reasons are in this order: lights that are not acknowledged, acknowledged lights, problems of
    the process, figures. With unacknowledged lights, the process comes before acknowledged lights.
    The first reason always names the light of the run that came on first: it is the diagnosis.

    Args:
        snapshot: state of the run.
        status: status of its process.
        acknowledged: lights that were acknowledged.
        doubt: what of the run is unread, missing or damaged.
    """
    run, tamiyo = snapshot.run, snapshot.tamiyo
    figures = [judge_figure(record_of(path), read(run)) for path, read in _RUN_FIGURES.items()]
    if not run.library:  # the bounds are those of Esper's own agent
        figures += [
            judge_figure(record_of(path), read(snapshot.training), update=run.update)
            for path, read in _TRAINING_FIGURES.items()
        ]
    figures += [
        judge_heads(record_of(figure.snapshot_path), _judged(tamiyo, figure), update=run.update)
        for figure in JUDGED_FIGURES
    ]
    lit = lit_lights(tamiyo)
    new = _lights(tamiyo, [light for light in lit if light not in acknowledged])
    new = _with_first_out(new, tamiyo, acknowledged)
    seen = _lights(tamiyo, [light for light in lit if light in acknowledged])
    stalled = _stalled(snapshot.training)
    if STALLED_LIGHT in acknowledged:
        seen = combine([seen, stalled])
    else:
        new = combine([new, stalled])
    process = _process(status)
    if doubt.unknown_lights is not None and process.level < Level.WARNING:
        figures.append(Verdict(Level.WARNING, (doubt.unknown_lights,)))
    if process.level < Level.WARNING:
        return combine([new, seen, process, *figures])
    ordered = [new, process, seen] if new.reasons else [seen, process]
    known = combine(figures)
    return Verdict(
        max(known.level, *(one.level for one in ordered)),
        (*(reason for one in ordered for reason in one.reasons), *known.reasons),
    )


def _with_first_out(new: Verdict, tamiyo: TamiyoState, acknowledged: Collection[Light]) -> Verdict:
    """Return the verdict on new lights, with the first-out added to its first reason."""
    if not new.reasons or not tamiyo.first:
        return new
    first = tamiyo.first[0]
    if (first.head, light_of(first.kind)) not in acknowledged:
        return new
    first_reason, *others = new.reasons
    kind = KIND_WORDS.get(first.kind, first.kind)
    return Verdict(
        new.level,
        (f"{first_reason}; first of the run: {first.head} {kind}, update {first.update}", *others),
    )


def _judged(tamiyo: TamiyoState, figure: HeadFigure) -> Mapping[str, float]:
    """Return the values of a figure that are judged, by head.

    A failure of what all heads share makes their figures non-finite too: that is one failure, which
    is reported once.
    """
    values = figure.of(tamiyo.figures)
    if figure.min_active_fraction > 0:
        active = tamiyo.figures.head_active_fraction
        values = {
            head: value
            for head, value in values.items()
            if active.get(head, 1.0) >= figure.min_active_fraction
        }
    if not (tamiyo.group_inf_active.get(SHARED) or tamiyo.group_nan_active.get(SHARED)):
        return values
    return {head: value for head, value in values.items() if math.isfinite(value)}


def _lights(tamiyo: TamiyoState, lights: Collection[Light]) -> Verdict:
    """Return the verdict on some of the lights that are on: the first one, then all by kind.

    A kind with the first light only is not repeated.
    """
    first = [seen for seen in tamiyo.first if (seen.head, light_of(seen.kind)) in lights][:1]
    kinds = [light for _, light in lights]
    repeated = {light_of(seen.kind) for seen in first if kinds.count(light_of(seen.kind)) == 1}
    rest = _latches(tamiyo, [(head, light) for head, light in lights if light not in repeated])
    return Verdict(_latches(tamiyo, lights).level, (*map(first_out, first), *rest.reasons))


def _latches(tamiyo: TamiyoState, lights: Collection[Light]) -> Verdict:
    """Return the verdict on lights; lights caused by drills only are marked."""
    names = {"inf": list[str](), "nan": list[str]()}
    for head, light in lights:
        is_planted = tamiyo.planted(light).get(head, False)
        names[light].append(f"{head} (drill)" if is_planted else head)
    return judge_latches(dict.fromkeys(names["inf"], True), dict.fromkeys(names["nan"], True))


def _stalled(training: TrainingState) -> Verdict:
    if training.still_updates >= STALLED_UPDATES:
        updates = training.still_updates
        reason = f"stalled: nothing was learnt for {updates} updates although steps were due"
        return Verdict(Level.CRITICAL, (reason,))
    if training.stalled_latch:
        reason = f"stalled before, from update {training.stalled_since} on; weights move again"
        return Verdict(Level.WARNING, (reason,))
    return HEALTHY


def _process(status: RunStatus) -> Verdict:
    level = _STATUS_LEVELS.get(status.kind)
    return HEALTHY if level is None else Verdict(level, (status.sentence,))

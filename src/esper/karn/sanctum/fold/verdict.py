"""The master status: one verdict on a run, from its lights, its figures and its process."""

import math
from collections.abc import Collection, Mapping
from typing import Final

from esper.karn.sanctum.fold.attention import Light, light_of, lit_lights
from esper.karn.sanctum.fold.doubt import NO_DOUBT, Doubt
from esper.karn.sanctum.fold.event_log import first_out
from esper.karn.sanctum.schema import SanctumSnapshot, TamiyoState
from esper.karn.store.liveness import RunStatus, StatusKind
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
from esper.leyline.sighting_words import KIND_WORDS
from esper.leyline.telemetry import SHARED

#: The figures that are judged, by the path of their record; what is not here is only shown.
_TRAINING_FIGURES: Final = (
    "minibatches_skipped",
    "loss_scale",
    "approximate_kl",
    "clip_fraction",
    "gradient_norm",
    "explained_variance",
)
_HEAD_FIGURES: Final = (
    "head_ratio_max",
    "head_gradient_norm",
    "head_kl",
    "head_clip_fraction",
    "head_log_prob_min",
)
#: The entropy of a head that hardly ever counted rests on a few steps, which may well have had one
#: legal choice each.
_ACTIVE_ENOUGH: Final = 0.05
_RUN_FIGURES: Final = ("events_lost", "damaged_events", "unknown_events")

_STATUS_LEVELS: Final = {
    StatusKind.HALTED: Level.CRITICAL,
    StatusKind.FAILED: Level.CRITICAL,
    StatusKind.DEAD: Level.CRITICAL,
    StatusKind.STALLED: Level.WARNING,
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

    Args:
        snapshot: the state of the run.
        status: of its process.
        acknowledged: lights that someone has acknowledged.
        doubt: what of the run is unread, missing or damaged.

    A light that was acknowledged is as bad as ever, but no news. So the reasons are, in this order:
    the lights that wait, the lights that were acknowledged, what is wrong with the process, and the
    figures. Where lights wait, the process comes before those that were acknowledged. The first
    reason always names the light of the run that came on first: it is the diagnosis.
    """
    run, tamiyo, training = snapshot.run, snapshot.tamiyo, snapshot.training
    figures = [judge_figure(record_of(f"run.{name}"), getattr(run, name)) for name in _RUN_FIGURES]
    figures += [
        judge_figure(record_of(f"training.{name}"), getattr(training, name), update=run.update)
        for name in _TRAINING_FIGURES
    ]
    figures += [
        judge_heads(
            record_of(f"tamiyo.{name}"), _own(tamiyo, getattr(tamiyo, name)), update=run.update
        )
        for name in _HEAD_FIGURES
    ]
    entropies = {
        head: entropy
        for head, entropy in tamiyo.head_entropy.items()
        if tamiyo.head_active_fraction.get(head, 1.0) >= _ACTIVE_ENOUGH
    }
    figures.append(
        judge_heads(record_of("tamiyo.head_entropy"), _own(tamiyo, entropies), update=run.update)
    )
    lit = lit_lights(tamiyo)
    new = _lights(tamiyo, [light for light in lit if light not in acknowledged])
    new = _with_first_out(new, tamiyo, acknowledged)
    seen = _lights(tamiyo, [light for light in lit if light in acknowledged])
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
    """Return the verdict on new lights, of which the first reason names the first-out as well."""
    if not new.reasons or not tamiyo.first:
        return new
    first = tamiyo.first[0]
    if (first.head, light_of(first.kind)) not in acknowledged:
        return new
    news, *others = new.reasons
    kind = KIND_WORDS.get(first.kind, first.kind)
    return Verdict(
        new.level,
        (f"{news}; first of the run: {first.head} {kind}, update {first.update}", *others),
    )


def _own(tamiyo: TamiyoState, figures: Mapping[str, float]) -> Mapping[str, float]:
    """Return what the heads themselves are to be judged by.

    Where what they share broke, their figures broke with it: that is one failure, named once.
    """
    if not (tamiyo.group_inf_active.get(SHARED) or tamiyo.group_nan_active.get(SHARED)):
        return figures
    return {head: value for head, value in figures.items() if math.isfinite(value)}


def _lights(tamiyo: TamiyoState, lights: Collection[Light]) -> Verdict:
    """Return the verdict on some of the lights that are on: which was first, then all of a kind.

    The kind of which only the first is on is not told twice.
    """
    first = [seen for seen in tamiyo.first if (seen.head, light_of(seen.kind)) in lights][:1]
    kinds = [light for _, light in lights]
    told = {light_of(seen.kind) for seen in first if kinds.count(light_of(seen.kind)) == 1}
    rest = _latches(tamiyo, [(head, light) for head, light in lights if light not in told])
    return Verdict(_latches(tamiyo, lights).level, (*map(first_out, first), *rest.reasons))


def _latches(tamiyo: TamiyoState, lights: Collection[Light]) -> Verdict:
    """Return the verdict on lights; what only drills caused is marked as such."""
    names = {"inf": list[str](), "nan": list[str]()}
    for head, light in lights:
        is_planted = tamiyo.planted(light).get(head, False)
        names[light].append(f"{head} (drill)" if is_planted else head)
    return judge_latches(dict.fromkeys(names["inf"], True), dict.fromkeys(names["nan"], True))


def _process(status: RunStatus) -> Verdict:
    level = _STATUS_LEVELS.get(status.kind)
    return HEALTHY if level is None else Verdict(level, (status.sentence,))

"""The master status: one verdict on a run, from its lights, its figures and its process."""

import math
from collections.abc import Mapping
from typing import Final

from esper.karn.liveness import RunStatus, StatusKind
from esper.karn.sanctum.event_log import first_out
from esper.karn.sanctum.schema import SanctumSnapshot, TamiyoState
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
    StatusKind.STALE: Level.WARNING,
    StatusKind.UNREADABLE: Level.WARNING,
    StatusKind.STOPPED: Level.NOTICE,
}


def master_verdict(snapshot: SanctumSnapshot, status: RunStatus) -> Verdict:
    """Return the verdict on a run; of what is equally bad, the lights come first."""
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
    return combine([_lights(snapshot), _process(status), *figures])


def _own(tamiyo: TamiyoState, figures: Mapping[str, float]) -> Mapping[str, float]:
    """Return what the heads themselves are to be judged by.

    What they share broke, so they did, too: that is one failure and told as one.
    """
    if not (tamiyo.shared_inf_active or tamiyo.shared_nan_active):
        return figures
    return {head: value for head, value in figures.items() if math.isfinite(value)}


def _lights(snapshot: SanctumSnapshot) -> Verdict:
    tamiyo = snapshot.tamiyo
    verdict = judge_latches(
        tamiyo.head_inf_latch,
        tamiyo.head_nan_latch,
        shared_inf=tamiyo.shared_inf_latch,
        shared_nan=tamiyo.shared_nan_latch,
    )
    if not tamiyo.first:
        return verdict
    return Verdict(verdict.level, (first_out(tamiyo.first[0]), *verdict.reasons))


def _process(status: RunStatus) -> Verdict:
    level = _STATUS_LEVELS.get(status.kind)
    return HEALTHY if level is None else Verdict(level, (status.sentence,))

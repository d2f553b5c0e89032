"""The parts of a snapshot, each made from what the aggregator keeps of the events."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from esper.karn.sanctum.fold.evidence import EvidenceLedger
from esper.karn.sanctum.fold.latches import Latches
from esper.karn.sanctum.fold.update_history import (
    HEAD_SERIES,
    TRAINING_SERIES,
    head_series,
    training_figure,
)
from esper.karn.sanctum.schema import (
    HeadTrend,
    MachineState,
    RunState,
    TamiyoState,
    TrainingState,
)
from esper.karn.store.sightings import sightings_of, source_of
from esper.leyline.telemetry import GROUPS, Heartbeat, PPOUpdatePayload, RunStarted


def described(start: RunStarted | None) -> RunState:
    """Return what the start of a run says of it."""
    if start is None:
        return RunState()
    return RunState(
        run_id=start.run_id,
        name=start.name,
        task=start.task,
        device=start.device,
        seed=start.seed,
        episodes=start.episodes,
        steps=start.steps,
        environments=start.environments,
        host_parameters=start.host_parameters,
        largest_class=start.largest_class,
        slots=tuple(start.slots),
        blueprints=tuple(start.blueprints),
    )


def machine_state(beat: Heartbeat | None) -> MachineState:
    """Return what a process took of its machine at its last heartbeat."""
    if beat is None:
        return MachineState()
    return MachineState(
        cpu_percent=beat.cpu_percent,
        memory_bytes=beat.memory_bytes,
        gpu_percent=beat.gpu_percent,
        gpu_memory_bytes=beat.gpu_memory_bytes,
        gpu_total_bytes=beat.gpu_total_bytes,
    )


def time_shares(update: PPOUpdatePayload) -> dict[str, float]:
    """Return the shares of hosts, acting and the update in its time and that of its episodes.

    Of an older writer, which did not measure the hosts by themselves, they are one with acting.
    """
    total = update.rollout_seconds + update.update_seconds
    if not (math.isfinite(total) and total > 0):
        return {}
    learning = {"update": update.update_seconds / total}
    if update.hosts_seconds is None:
        return {"hosts and acting": update.rollout_seconds / total} | learning
    acting = max(0.0, update.rollout_seconds - update.hosts_seconds)
    return {"hosts": update.hosts_seconds / total, "acting": acting / total} | learning


def tamiyo_state(
    heads: Sequence[str],
    latches: Latches,
    evidence: EvidenceLedger,
    last: PPOUpdatePayload | None,
    history: Mapping[str, tuple[float, ...]],
) -> TamiyoState:
    """Return the policy's health.

    Args:
        heads: names of all heads, in order.
        latches: of the whole run.
        evidence: of the whole run.
        last: the last update; None before the first.
        history: of `update_history`.
    """
    active = Latches.of(last) if last else Latches()
    active_sources = map(source_of, sightings_of(last)) if last else ()
    return TamiyoState(
        head_inf_latch={head: head in latches.inf for head in heads},
        head_nan_latch={head: head in latches.nan for head in heads},
        head_inf_active={head: head in active.inf for head in heads},
        head_nan_active={head: head in active.nan for head in heads},
        group_inf_latch={group: group in latches.inf for group in GROUPS},
        group_nan_latch={group: group in latches.nan for group in GROUPS},
        group_inf_active={group: group in active.inf for group in GROUPS},
        group_nan_active={group: group in active.nan for group in GROUPS},
        first=latches.in_order(heads),
        evidence=evidence.rows(heads, active_sources),
        head_entropy=dict(last.head_entropy) if last else {},
        head_gradient_norm=dict(last.head_gradient_norm) if last else {},
        head_ratio_max=dict(last.head_ratio_max) if last else {},
        head_clip_fraction=dict(last.head_clip_fraction) if last else {},
        head_kl=dict(last.head_kl) if last else {},
        head_log_prob_min=dict(last.head_log_prob_min) if last else {},
        head_log_prob_max=dict(last.head_log_prob_max) if last else {},
        head_active_fraction=dict(last.head_active_fraction) if last else {},
        head_trend={head: _trend(head, history) for head in heads} if last else {},
    )


def _trend(head: str, history: Mapping[str, tuple[float, ...]]) -> HeadTrend:
    return HeadTrend(
        **{figure: history.get(head_series(figure, head), ()) for figure in HEAD_SERIES}
    )


def training_state(
    last: PPOUpdatePayload | None,
    history: Mapping[str, tuple[float, ...]],
    scores: tuple[float, ...],
    *,
    skipped_in_run: int,
    rescaled_in_run: int,
) -> TrainingState:
    """Return the figures of the last update, with their histories.

    Args:
        last: the last update; None before the first.
        history: of `update_history`.
        scores: the history of mean scores.
        skipped_in_run: minibatches, as non-finite.
        rescaled_in_run: minibatches, for the sake of the fp16 loss scale.
    """
    state = TrainingState(
        skipped_in_run=skipped_in_run,
        rescaled_in_run=rescaled_in_run,
        score=scores[-1] if scores else None,
        score_history=scores,
    )
    if last is None:
        return state
    figures: dict[str, Any] = {name: training_figure(last, name) for name in TRAINING_SERIES}
    figures |= {f"{name}_history": history.get(name, ()) for name in TRAINING_SERIES}
    return replace(
        state,
        **figures,
        time_shares=time_shares(last),
        learning_rate=last.learning_rate,
        minibatches=last.minibatches,
        minibatches_skipped=last.minibatches_skipped,
        minibatches_rescaled=last.minibatches_rescaled,
        loss_scale=last.loss_scale,
    )

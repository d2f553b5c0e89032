"""The parts of a snapshot, built from the state that the aggregator keeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from esper.karn.sanctum.fold.evidence import EvidenceLedger
from esper.karn.sanctum.fold.latches import Latches
from esper.karn.sanctum.fold.ledgers.update_history import LOGGED, head_series
from esper.karn.sanctum.schema import (
    InterventionState,
    MachineState,
    RunState,
    TamiyoState,
    TrainingState,
)
from esper.karn.store.sightings import sightings_of, source_of
from esper.leyline.head_figures import CHARTED_FIGURES, HeadFigures
from esper.leyline.telemetry import Heartbeat, PPOUpdatePayload, RunStarted


def described(start: RunStarted | None) -> RunState:
    """Return the part of a run's state that its start event has; empty without one."""
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
        world_size=start.world_size,
        library=start.library,
        head_kinds=start.head_kinds,
    )


def machine_state(beat: Heartbeat | None) -> MachineState:
    """Return the load of a process at its last heartbeat."""
    if beat is None:
        return MachineState()
    return MachineState(
        cpu_percent=beat.cpu_percent,
        memory_bytes=beat.memory_bytes,
        gpu_percent=beat.gpu_percent,
        gpu_memory_bytes=beat.gpu_memory_bytes,
        gpu_total_bytes=beat.gpu_total_bytes,
    )


def counted_intervention(before: InterventionState, action: str) -> InterventionState:
    """Return the counts of interventions after one more.

    Args:
        before: counts so far.
        action: `InterventionTaken.action`; an action of a newer writer is not counted.
    """
    match action:
        case "repeat":
            return replace(before, updates_repeated=before.updates_repeated + 1)
        case "skip":
            return replace(before, updates_skipped=before.updates_skipped + 1)
        case "rollback":
            return replace(before, updates_rolled_back=before.updates_rolled_back + 1)
        case "halt":
            return replace(before, halts=before.halts + 1)
        case _:
            return before


def time_shares(update: PPOUpdatePayload, *, is_watched: bool = False) -> dict[str, float]:
    """Return the fractions of time spent on hosts, acting and the update.

    An older writer did not measure hosts separately; then "hosts and acting" is one entry. A
    watched run has no hosts.
    """
    if update.rollout_seconds is None or update.update_seconds is None:
        return {}
    total = update.rollout_seconds + update.update_seconds
    if not (math.isfinite(total) and total > 0):
        return {}
    learning = {"update": update.update_seconds / total}
    if update.hosts_seconds is None:
        before = "acting" if is_watched else "hosts and acting"
        return {before: update.rollout_seconds / total} | learning
    acting = max(0.0, update.rollout_seconds - update.hosts_seconds)
    return {"hosts": update.hosts_seconds / total, "acting": acting / total} | learning


def tamiyo_state(
    heads: Sequence[str],
    groups: Sequence[str],
    latches: Latches,
    evidence: EvidenceLedger,
    last: PPOUpdatePayload | None,
    history: Mapping[str, tuple[float, ...]],
) -> TamiyoState:
    """Return the numerical health of the policy.

    Args:
        heads: names of all heads, in order.
        groups: further groups that have lights.
        latches: latches of the whole run.
        evidence: evidence of the whole run.
        last: the last update; None before the first.
        history: values of `update_history`.
    """
    active = Latches.of(last) if last else Latches()
    active_sources = map(source_of, sightings_of(last)) if last else ()
    return TamiyoState(
        head_inf_latch={head: head in latches.inf for head in heads},
        head_nan_latch={head: head in latches.nan for head in heads},
        head_inf_active={head: head in active.inf for head in heads},
        head_nan_active={head: head in active.nan for head in heads},
        group_inf_latch={group: group in latches.inf for group in groups},
        group_nan_latch={group: group in latches.nan for group in groups},
        group_inf_active={group: group in active.inf for group in groups},
        group_nan_active={group: group in active.nan for group in groups},
        first=latches.in_order(heads),
        evidence=evidence.rows(heads, active_sources),
        figures=last or HeadFigures(),
        head_history={
            figure.field: {head: history.get(head_series(figure, head), ()) for head in heads}
            for figure in CHARTED_FIGURES
            if last
        },
    )


def training_state(
    last: PPOUpdatePayload | None,
    history: Mapping[str, tuple[float, ...]],
    scores: tuple[float, ...],
    *,
    skipped_in_run: int,
    rescaled_in_run: int,
    stalled_since: int | None,
    is_watched: bool = False,
) -> TrainingState:
    """Return the figures of the last update, with their histories.

    Args:
        last: the last update; None before the first.
        history: values of `update_history`.
        scores: history of mean scores.
        skipped_in_run: minibatches of the run that were skipped as non-finite.
        rescaled_in_run: minibatches of the run that were left out by fp16 loss scaling.
        stalled_since: first update of the first time in which no weight moved; None if there was
            no such time.
        is_watched: whether the run is watched from outside.
    """
    return TrainingState(
        figures=last,
        skipped_in_run=skipped_in_run,
        rescaled_in_run=rescaled_in_run,
        policy_loss_history=history.get("policy_loss", ()),
        value_loss_history=history.get("value_loss", ()),
        entropy_history=history.get("entropy", ()),
        approximate_kl_history=history.get("approximate_kl", ()),
        clip_fraction_history=history.get("clip_fraction", ()),
        explained_variance_history=history.get("explained_variance", ()),
        gradient_norm_history=history.get("gradient_norm", ()),
        score=scores[-1] if scores else None,
        score_history=scores,
        time_shares=time_shares(last, is_watched=is_watched) if last else {},
        logged_history={
            name.removeprefix(LOGGED): values
            for name, values in history.items()
            if name.startswith(LOGGED)
        },
        stalled_latch=stalled_since is not None,
        stalled_since=stalled_since,
    )

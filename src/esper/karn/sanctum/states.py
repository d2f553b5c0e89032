"""The parts of a snapshot, each made from what the aggregator keeps of the events."""

from collections.abc import Sequence
from dataclasses import replace

from esper.karn.sanctum.evidence import EvidenceLedger, source_of
from esper.karn.sanctum.latches import Latches
from esper.karn.sanctum.schema import (
    HeadTrend,
    HostState,
    RunState,
    SlotState,
    TamiyoState,
    TrainingState,
)
from esper.karn.sightings import sightings_of
from esper.leyline.telemetry import SHARED, PPOUpdatePayload, RunStarted, StepCompleted


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
        slots=tuple(start.slots),
        blueprints=tuple(start.blueprints),
    )


def tamiyo_state(
    heads: Sequence[str],
    latches: Latches,
    evidence: EvidenceLedger,
    updates: Sequence[PPOUpdatePayload],
) -> TamiyoState:
    """Return the policy's health.

    Args:
        heads: names of all heads, in order.
        latches: of the whole run.
        evidence: of the whole run.
        updates: the last ones, oldest first.
    """
    last = updates[-1] if updates else None
    active = Latches.of(last) if last else Latches()
    active_sources = map(source_of, sightings_of(last)) if last else ()
    return TamiyoState(
        head_inf_latch={head: head in latches.inf for head in heads},
        head_nan_latch={head: head in latches.nan for head in heads},
        head_inf_active={head: head in active.inf for head in heads},
        head_nan_active={head: head in active.nan for head in heads},
        shared_inf_latch=SHARED in latches.inf,
        shared_nan_latch=SHARED in latches.nan,
        shared_inf_active=SHARED in active.inf,
        shared_nan_active=SHARED in active.nan,
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
        head_trend={head: _trend(head, updates) for head in heads} if last else {},
    )


def _trend(head: str, updates: Sequence[PPOUpdatePayload]) -> HeadTrend:
    return HeadTrend(
        entropy=tuple(u.head_entropy[head] for u in updates if head in u.head_entropy),
        gradient_norm=tuple(
            u.head_gradient_norm[head] for u in updates if head in u.head_gradient_norm
        ),
        ratio_max=tuple(u.head_ratio_max[head] for u in updates if head in u.head_ratio_max),
        clip_fraction=tuple(
            u.head_clip_fraction[head] for u in updates if head in u.head_clip_fraction
        ),
    )


def training_state(
    updates: Sequence[PPOUpdatePayload],
    scores: Sequence[float],
    *,
    skipped_in_run: int,
    rescaled_in_run: int,
) -> TrainingState:
    """Return the figures of the last update, with the histories of all that are given.

    Args:
        updates: the last ones, oldest first.
        scores: mean scores of the last batches of episodes, oldest first.
        skipped_in_run: minibatches, as non-finite.
        rescaled_in_run: minibatches, for the sake of the fp16 loss scale.
    """
    state = TrainingState(
        skipped_in_run=skipped_in_run,
        rescaled_in_run=rescaled_in_run,
        score=scores[-1] if scores else None,
        score_history=tuple(scores),
    )
    if not updates:
        return state
    last = updates[-1]
    return replace(
        state,
        policy_loss=last.policy_loss,
        value_loss=last.value_loss,
        entropy=last.entropy,
        approximate_kl=last.approximate_kl,
        clip_fraction=last.clip_fraction,
        explained_variance=last.explained_variance,
        gradient_norm=last.gradient_norm,
        learning_rate=last.learning_rate,
        minibatches=last.minibatches,
        minibatches_skipped=last.minibatches_skipped,
        minibatches_rescaled=last.minibatches_rescaled,
        loss_scale=last.loss_scale,
        policy_loss_history=tuple(u.policy_loss for u in updates),
        value_loss_history=tuple(u.value_loss for u in updates),
        entropy_history=tuple(u.entropy for u in updates),
        approximate_kl_history=tuple(u.approximate_kl for u in updates),
        clip_fraction_history=tuple(u.clip_fraction for u in updates),
        explained_variance_history=tuple(u.explained_variance for u in updates),
        gradient_norm_history=tuple(u.gradient_norm for u in updates),
    )


def host_states(
    step: StepCompleted | None, accuracies: Sequence[Sequence[float]]
) -> tuple[HostState, ...]:
    """Return the hosts as of their last step, with their accuracies in this episode."""
    if step is None:
        return ()
    return tuple(
        HostState(
            host=host,
            episode=step.first_episode + host,
            accuracy=accuracy,
            loss=step.loss[host],
            parameters=step.parameters[host],
            reward=step.reward[host],
            slots=tuple(
                SlotState(stage, alpha, blueprint)
                for stage, alpha, blueprint in zip(
                    step.stages[host], step.alphas[host], step.blueprints[host], strict=False
                )
            ),
            accuracy_history=tuple(accuracies[host]),
        )
        for host, accuracy in enumerate(step.accuracy)
    )

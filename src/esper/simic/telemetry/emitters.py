"""Turns what training knows into typed events, and hands them to the writer it was given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from esper.leyline.telemetry import (
    DecisionsTaken,
    EpisodesCompleted,
    NonfiniteSighting,
    Payload,
    PPOUpdatePayload,
    SeedTransitioned,
    StepCompleted,
)
from esper.tamiyo.acting import Decision

if TYPE_CHECKING:
    from esper.simic.agent.figures import UpdateResult


@dataclass(frozen=True)
class DecisionFigures:
    """One decision for each host, as brought over from the device.

    Attributes:
        actions: the choices taken. `[N, H]`, int64
        values: the critic's estimates. `[N]`
        logits: raw. `[N, total]`
        distributions: the probability of every choice of every head. `[N, total]`
        watched: distributions, values, logits, and the sums over trunk and recurrent state: finite
            in a host where all of those are. `[N, total + 1 + total + 2]`
    """

    actions: np.ndarray
    values: np.ndarray
    logits: np.ndarray
    distributions: np.ndarray
    watched: np.ndarray


class EventWriter(Protocol):
    """Where events go. `durable` returns once the event would survive `kill -9` and power loss."""

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        """Take one event."""

    def latches(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return the first sighting of each head, quantity and kind in the run, with its update."""


def emit_ppo_update_event(
    writer: EventWriter,
    result: "UpdateResult",
    *,
    update: int,
    episodes_done: int,
    rollout_seconds: float,
    update_seconds: float,
    samples_per_second: float,
    hosts_seconds: float | None = None,
) -> PPOUpdatePayload:
    """Emit the outcome of an update, durably: what it latched must outlive whatever comes next."""
    told = set(PPOUpdatePayload.__struct_fields__)
    measured = {
        part.name: getattr(result, part.name) for part in fields(result) if part.name in told
    }
    payload = PPOUpdatePayload(
        update=update,
        episodes_done=episodes_done,
        rollout_seconds=rollout_seconds,
        update_seconds=update_seconds,
        samples_per_second=samples_per_second,
        hosts_seconds=hosts_seconds,
        **measured,
    )
    writer.emit(payload, durable=True)
    return payload


def emit_step(
    writer: EventWriter,
    info: Mapping[str, Any],
    rewards: Any,
    *,
    update: int,
    step: int,
    first_episode: int,
    seconds: float,
) -> None:
    """Emit what one step of all hosts came to, and every stage that a seed passed into.

    Args:
        writer: where to.
        info: of the environment's step.
        rewards: `[N]`.
        update: the update that the step's data will be part of, counted from 1.
        step: counted from 1 within the episode.
        first_episode: number of the episode in host 0, counted from 1.
        seconds: that the step took.
    """
    writer.emit(
        StepCompleted(
            update=update,
            step=step,
            first_episode=first_episode,
            accuracy=info["accuracy"].tolist(),
            loss=info["loss"].tolist(),
            parameters=info["parameters"].tolist(),
            stages=info["stage"].tolist(),
            alphas=info["alpha"].tolist(),
            blueprints=info["blueprint"].tolist(),
            reward=rewards.tolist(),
            reward_terms={name: term.tolist() for name, term in info["reward_terms"].items()},
            samples_per_second=info["training_samples"] / seconds,
        )
    )
    for transition in info["transitions"]:
        writer.emit(
            SeedTransitioned(
                update=update,
                step=step,
                episode=first_episode + transition.host,
                host=transition.host,
                slot=transition.slot,
                blueprint=transition.blueprint,
                from_stage=int(transition.from_stage),
                to_stage=int(transition.to_stage),
                cause=str(transition.cause),
                alpha=transition.alpha,
            )
        )


def emit_decisions(
    writer: EventWriter, decision: Decision, *, update: int, step: int
) -> DecisionFigures:
    """Emit what was chosen for each host, and how probable that and every other choice was.

    Everything comes from the device in one transfer, which also holds what shows whether the
    decision was finite.

    Returns:
        The figures on the host.
    """
    hidden, cell = decision.state
    columns = (
        decision.actions.float(),  # small whole numbers, which float32 holds exactly
        decision.log_probs.exp(),
        decision.choice_log_probs.exp(),
        decision.values.unsqueeze(1),
        decision.logits,
        decision.trunk.sum(1, keepdim=True),
        (hidden + cell).sum(-1).T,
    )
    rows = torch.cat(columns, dim=1).cpu().numpy().astype("<f4", copy=False)
    ends = np.cumsum([part.shape[1] for part in columns])[:-1]
    actions, probabilities, distributions, values, logits, *_ = np.split(rows, ends, axis=1)
    figures = DecisionFigures(
        actions=actions.astype(np.int64),
        values=values[:, 0],
        logits=logits,
        distributions=distributions,
        watched=rows[:, ends[1] :],
    )
    writer.emit(
        DecisionsTaken(
            update=update,
            step=step,
            actions=figures.actions.tolist(),
            probabilities=probabilities.tolist(),
            values=figures.values.tolist(),
            distributions=[row.tobytes() for row in distributions],
        )
    )
    return figures


def emit_episodes(
    writer: EventWriter,
    info: Mapping[str, Any],
    returns: Sequence[float],
    *,
    update: int,
    first_episode: int,
) -> EpisodesCompleted:
    """Emit how a batch of episodes ended; `returns` are undiscounted sums of rewards, `[N]`.

    The score and the return of a network that is not finite are NaN.
    """
    payload = EpisodesCompleted(
        update=update,
        first_episode=first_episode,
        episodes_done=first_episode - 1 + len(returns),
        score=info["score"].tolist(),
        returns=list(returns),
        accuracy=info["final_accuracy"].tolist(),
        parameters=info["parameters"].tolist(),
        fossilized=info["fossilized"].tolist(),
    )
    writer.emit(payload)
    return payload

"""Emitters: build typed events from training data and pass them to an event writer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
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
    """One decision for each host, copied from the device.

    Attributes:
        actions: choices taken, `[N, H]`, int64.
        probabilities: probabilities of the choices taken, `[N, H]`.
        values: the critic's estimates, `[N]`.
        logits: unmasked logits, `[N, total]`.
        distributions: probabilities of all choices of all heads, `[N, total]`.
        watched: distributions, values, logits, and the sums over trunk and recurrent state,
            `[N, total + 1 + total + 2]`; a host's row is finite if all of these are.
    """

    actions: np.ndarray
    probabilities: np.ndarray
    values: np.ndarray
    logits: np.ndarray
    distributions: np.ndarray
    watched: np.ndarray


class EventWriter(Protocol):
    """A destination of events."""

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        """Write one event.

        Args:
            payload: the event.
            durable: True to return only after the event survives `kill -9` and power loss.
        """

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
    """Emit the figures of an update. The write is durable, so that no latch is lost.

    Args:
        writer: destination.
        result: outcome of the update.
        update: number of the update, counted from 1.
        episodes_done: episodes completed in the whole run.
        rollout_seconds: duration of the rollout.
        update_seconds: duration of the update.
        samples_per_second: training samples of all hosts, over the rollout.
        hosts_seconds: part of the rollout that trained and measured hosts; None if unknown.
    """
    payload = PPOUpdatePayload(
        update=update,
        episodes_done=episodes_done,
        rollout_seconds=rollout_seconds,
        update_seconds=update_seconds,
        samples_per_second=samples_per_second,
        hosts_seconds=hosts_seconds,
        # The payload inherits all fields of `UpdateFigures`, so they are passed on as a whole.
        **msgspec.structs.asdict(result.figures),
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
    """Emit the result of one step of all hosts, and the stage transitions of their seeds.

    Args:
        writer: destination.
        info: `info` of the environment's step.
        rewards: rewards, `[N]`.
        update: number of the update that will learn from the step, counted from 1.
        step: step of the episode, counted from 1.
        first_episode: number of the episode in host 0, counted from 1.
        seconds: duration of the step.
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


def read_decision(decision: Decision) -> DecisionFigures:
    """Copy the decision of the policy for each host from the device, in one transfer.

    This includes the values that show whether the decision was finite.
    """
    hidden, cell = decision.state
    columns = (
        decision.actions.float(),  # small integers, which float32 represents exactly
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
    return DecisionFigures(
        actions=actions.astype(np.int64),
        probabilities=probabilities,
        values=values[:, 0],
        logits=logits,
        distributions=distributions,
        watched=rows[:, ends[1] :],
    )


def emit_decisions(
    writer: EventWriter, figures: DecisionFigures, *, update: int, step: int
) -> None:
    """Emit the choices for each host, with the probabilities of all alternatives.

    Args:
        writer: destination.
        figures: decision of the policy for each host.
        update: number of the update that will learn from the step, counted from 1.
        step: step of the episode, counted from 1.
    """
    writer.emit(
        DecisionsTaken(
            update=update,
            step=step,
            actions=figures.actions.tolist(),
            probabilities=figures.probabilities.tolist(),
            values=figures.values.tolist(),
            distributions=[row.tobytes() for row in figures.distributions],
        )
    )


def emit_episodes(
    writer: EventWriter,
    info: Mapping[str, Any],
    returns: Sequence[float],
    *,
    update: int,
    first_episode: int,
) -> EpisodesCompleted:
    """Emit the results of a batch of episodes.

    Args:
        writer: destination.
        info: `info` of the environment's last step; the score of a non-finite network is NaN.
        returns: undiscounted sums of rewards, `[N]`; NaN for a non-finite network.
        update: number of the update that learns from the episodes, counted from 1.
        first_episode: number of the episode in host 0, counted from 1.
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

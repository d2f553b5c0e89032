"""Collects one batch of episodes, from the first observation to the last step."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.growth.environment.divided import DividedHosts
from esper.leyline.telemetry import NonfiniteSighting
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout, RolloutBuffer
from esper.simic.telemetry.emitters import EventWriter, emit_decisions, emit_step, read_decision
from esper.simic.training.faults.episode_watch import EpisodeWatch
from esper.simic.training.ranks.host_sharing import HostSharing, HostStep


@dataclass(frozen=True)
class Batch:
    """A batch of whole episodes.

    Attributes:
        rollout: the data of the PPO update.
        last_info: the environment's info after the last step, with the end of each episode.
        returns: undiscounted sum of rewards by host; NaN for a host that is not finite.
        training_samples: number of samples that all hosts were trained on.
        seconds: duration of the batch.
        hosts_seconds: the part of it in which hosts were trained and measured.
        sightings: non-finite values in the hosts, then in acting; causes only.
        own_sightings: those of them that this process saw.
    """

    rollout: Rollout
    last_info: dict[str, Any]
    returns: list[float]
    training_samples: int
    seconds: float
    hosts_seconds: float
    sightings: list[NonfiniteSighting]
    own_sightings: list[NonfiniteSighting]


def episode_seeds(run_seed: int, first_episode: int, count: int, siblings: int) -> list[int]:
    """Return the random seeds of consecutive episodes, of which groups share one.

    A random seed depends only on that of the run and on the number of its first episode.

    Args:
        run_seed: random seed of the run.
        first_episode: number of the first episode, counted from 1.
        count: number of episodes.
        siblings: number of episodes that share one random seed.
    """
    numbers = (first_episode + host - host % siblings for host in range(count))
    return [
        int(np.random.SeedSequence((run_seed, number)).generate_state(1)[0]) for number in numbers
    ]


def collect(
    hosts: DividedHosts,
    agent: PPOAgent,
    writer: EventWriter,
    *,
    seeds: Sequence[int],
    update: int,
    first_episode: int,
    on_step: Callable[[int], None],
    interruptible: Callable[[], AbstractContextManager[None]] = nullcontext,
    sharing: HostSharing | None = None,
) -> Batch:
    """Run one episode in each host, and emit every step of it.

    Args:
        hosts: the hosts of this process.
        agent: the agent.
        writer: receives every telemetry event.
        seeds: random seed of each host of the batch.
        update: number of the update that uses this batch, counted from 1.
        first_episode: number of the episode in host 0, counted from 1.
        on_step: called after each step with its number, counted from 1.
        interruptible: returns a context in which a request to stop may raise; it is entered for the
            work of hosts and policy, and never while an event is emitted.
        sharing: joins these hosts with those of the other processes; None if these are all.
    """
    sharing = sharing or HostSharing(len(seeds))
    start = time.perf_counter()
    with interruptible():
        observations, info = hosts.reset(seeds[sharing.own])
    state = agent.policy.initial_state(hosts.num_envs)
    buffer = RolloutBuffer(agent.policy.initial_state(sharing.total))
    watch = EpisodeWatch(hosts.num_envs, agent.policy.layout)
    watch.hosts(1, info["nonfinite"])
    returns = np.zeros(sharing.total)
    samples = 0
    step = 0
    hosts_seconds = time.perf_counter() - start
    ended = np.zeros(sharing.total, dtype=bool)
    seen = _tensor(observations, agent)
    while not ended.all():
        step += 1
        with interruptible():
            decision = agent.act(
                seen,
                _tensor(info["action_mask"], agent),
                _tensor(info["slot_mask_by_op"], agent),
                state,
                sharing.draws,
            )
        state = decision.state
        figures = read_decision(decision)
        watch.acting(step, observations, decision, figures)
        step_start = time.perf_counter()
        with interruptible():
            observations, rewards, terminated, truncated, info = hosts.step(figures.actions)
        watch.hosts(step, info["nonfinite"])
        following = _tensor(observations, agent)
        own = HostStep(
            observations=seen,
            taken=decision.taken,
            figures=figures,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            # Only a truncated episode needs the value of its last observation.
            final_values=(
                agent.values(following, state) if truncated.any() else torch.zeros_like(seen[:, 0])
            ),
            info=info,
        )
        with interruptible():
            every = sharing.step(own)
        step_seconds = time.perf_counter() - step_start
        hosts_seconds += step_seconds
        emit_decisions(writer, every.figures, update=update, step=step)
        emit_step(
            writer,
            every.info,
            every.rewards,
            update=update,
            step=step,
            first_episode=first_episode,
            seconds=step_seconds,
        )
        buffer.add(
            every.observations,
            every.taken,
            _tensor(every.rewards, agent).float(),
            _tensor(every.terminated, agent),
            _tensor(every.truncated, agent),
            every.final_values,
        )
        on_step(step)
        seen = following
        returns += every.rewards
        samples += every.info["training_samples"]
        ended = every.terminated | every.truncated
    own_sightings = sharing.placed(watch.sightings())
    with interruptible():
        learnable = sharing.learnable(watch.learnable)
        sightings = sharing.joined(own_sightings)
    return Batch(
        rollout=buffer.rollout(
            last_values=torch.zeros_like(every.final_values),
            learnable=torch.from_numpy(learnable),
        ),
        last_info=every.info,
        returns=returns.tolist(),
        training_samples=samples,
        seconds=time.perf_counter() - start,
        hosts_seconds=hosts_seconds,
        sightings=sightings,
        own_sightings=own_sightings,
    )


def _tensor(array: Any, agent: PPOAgent) -> Tensor:
    return torch.as_tensor(array, device=agent.device)

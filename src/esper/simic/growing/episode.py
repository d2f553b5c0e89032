"""One episode of growing: hosts that a policy grows in lockstep, and the best of them."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.from_scratch import architecture_of
from esper.growth.hosts.seeds import Transition
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.text.plurals import counted
from esper.simic.evaluation.arena import Decide, Player
from esper.simic.growing.limiting import Limiter
from esper.simic.growing.records import Episode, Measured, Moment, Recorded
from esper.simic.requests import GrowingError

Say = Callable[[str], None]


def grow_hosts(
    env: GrowthVectorEnv,
    player: Player,
    batch: int,
    rng_seeds: Sequence[int],
    limiter: Limiter,
    *,
    on_step: Callable[[int, float], None] = lambda _step, _best: None,
    say: Say = lambda _: None,
) -> Episode:
    """Let a player grow hosts, and return the one with the best validation accuracy.

    Args:
        env: the environment.
        player: decides what grows.
        batch: number of the batch, for the player.
        rng_seeds: random seed of each host.
        limiter: masks what would exceed a limit.
        on_step: called after each step with its number and the best accuracy.
        say: receives sentences about networks that cannot be chosen.

    Raises:
        GrowingError: no grown network is finite.
    """
    hosts = env.num_envs
    begin = time.monotonic()
    decide = player(hosts, batch)
    observations, info = env.reset(seed=list(rng_seeds))
    initial = [env.finished_network(host) for host in range(hosts)]
    lives = [[_moment(info, host, ())] for host in range(hosts)]
    seen: list[tuple[np.ndarray, ...]] = []
    for step in range(1, env.steps + 1):
        info = limiter.masked(info)
        actions = limiter.allowed(decide(observations, info), info)
        seen.append((observations, info["action_mask"], info["slot_mask_by_op"], actions))
        observations, *_, info = env.step(actions)
        for host, life in enumerate(lives):
            happened = tuple(each for each in info["transitions"] if each.host == host)
            life.append(_moment(info, host, happened))
        on_step(step, float(info["accuracy"].max()))
    finite = np.isfinite(info["score"])
    if not finite.any():
        raise GrowingError(
            f"no network can be written: {counted(hosts, 'network')} grew on {env.task.name}, and "
            "every one ended with NaN or Inf in its loss; try another --seed"
        )
    if not finite.all():
        broken = hosts - int(finite.sum())
        say(f"{counted(broken, 'network')} ended with NaN or Inf in the loss and cannot be chosen")
    rivals = np.where(finite, info["final_accuracy"], 0.0)
    chosen = min(
        np.flatnonzero(finite).tolist(),
        key=lambda host: (-rivals[host], info["final_parameters"][host]),
    )
    logits = env.test_logits()[chosen].cpu()
    if not logits.isfinite().all():
        raise GrowingError(
            f"the best network that grew on {env.task.name} has NaN or Inf in its logits on the "
            "test part, so nothing was written; try another --seed"
        )
    seeds_in_slots = (info[name] for name in ("stage", "blueprint", "style", "alpha"))
    return Episode(
        network=env.finished_network(chosen),
        initial=initial[chosen],
        logits=logits,
        architecture=architecture_of(*seeds_in_slots).take(slice(chosen, chosen + 1)),
        host=chosen,
        rng_seeds=tuple(rng_seeds),
        result=measured(info, env.test_accuracy(), chosen),
        rivals=rivals,
        moments=tuple(lives[chosen]),
        recorded=Recorded(
            *(np.stack([row[chosen] for row in each]) for each in zip(*seen, strict=True))
        ),
        seconds=time.monotonic() - begin,
    )


def leave_alone(
    env: GrowthVectorEnv,
    rng_seeds: Sequence[int],
    host: int,
    on_step: Callable[[int], None] = lambda _step: None,
) -> tuple[Measured, tuple[float, ...]]:
    """Return the result of a host without growth, and its accuracy after each step."""
    decide = waiting(env.num_envs, 0)
    observations, info = env.reset(seed=list(rng_seeds))
    accuracy = [float(info["accuracy"][host])]
    for step in range(1, env.steps + 1):
        observations, *_, info = env.step(decide(observations, info))
        on_step(step)
        accuracy.append(float(info["accuracy"][host]))
    return measured(info, env.test_accuracy(), host), tuple(accuracy)


def waiting(hosts: int, _batch: int) -> Decide:
    """Return a player's decisions that grow nothing."""
    actions = np.zeros((hosts, len(HEAD_NAMES)), dtype=np.int64)
    return lambda _observations, _info: actions


def measured(info: dict[str, Any], test_accuracy: np.ndarray, host: int) -> Measured:
    """Return the result of one host at the end of an episode."""
    return Measured(
        int(info["final_parameters"][host]),
        float(info["final_accuracy"][host]),
        float(test_accuracy[host]),
        float(info["multiply_adds"][host]),
    )


def _moment(info: dict[str, Any], host: int, happened: tuple[Transition, ...]) -> Moment:
    return Moment(
        float(info["accuracy"][host]),
        info["stage"][host],
        info["alpha"][host],
        info["blueprint"][host],
        happened,
    )

"""Evaluation: policies on fresh seeds that no training can reach, against baselines on the same.

Every contestant lives through the same episodes: host n is born of the n-th evaluation seed and
sees its data in the order that follows from it, whoever decides about it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from esper.growth.environment.divided import DividedHosts
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.from_scratch import Architecture, architecture_of
from esper.growth.tasks.loading import load_task
from esper.simic.config import TrainingConfig
from esper.simic.environment import divide_hosts
from esper.simic.evaluation.turns import Turns
from esper.tamiyo.acting import act
from esper.tamiyo.policy import RecurrentPolicy

#: Episodes that are lived through at a time.
LOCKSTEP = 64
#: Parts the random numbers of evaluation from those of training, which begin with the run's seed.
_EVALUATION_KEY = 0x6576616C
#: Added to every evaluation seed. Training draws its episodes' seeds below 2**32.
_FIRST_SEED = 2**62

#: Decides for N hosts: observations `[N, F]` and the environment's info to actions `[N, 8]`.
Decide = Callable[[np.ndarray, dict[str, Any]], np.ndarray]
#: Makes what decides through one batch of episodes, given the number of hosts and of the batch.
Player = Callable[[int, int], Decide]


@dataclass(frozen=True)
class Outcomes:
    """What one contestant's networks came to, by episode; all arrays `[E]`.

    A network that is not finite is useless to its owner: its accuracies and its score are 0.

    Attributes:
        what: the contestant in words: which rule, which architecture.
        test_accuracy, validation_accuracy: of the finished networks.
        score: validation accuracy less the price of parameters beyond the host's.
        parameters: of the finished networks.
        multiply_adds: spent on training, as `esper.growth.hosts.training_cost` counts them.
    """

    what: str
    test_accuracy: np.ndarray
    validation_accuracy: np.ndarray
    score: np.ndarray
    parameters: np.ndarray
    multiply_adds: np.ndarray


@dataclass(frozen=True)
class Played:
    """What a player's episodes came to, and the architectures they ended with."""

    outcomes: Outcomes
    architecture: Architecture


def evaluation_seeds(seed: int, episodes: int) -> list[int]:
    """Return the seeds of so many episodes; no training reaches them.

    Training's are 32-bit numbers (`collecting.episode_seeds`), these are 2**62 and
    above.
    """
    return [
        _FIRST_SEED + int(child.generate_state(1, np.uint64)[0] >> np.uint64(2))
        for child in _sequence(seed, 0).spawn(episodes)
    ]


def choices_seed(seed: int, player: int, batch: int) -> int:
    """Return the seed of what a player draws in one batch of episodes."""
    return int(_sequence(seed, 1, player, batch).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(seed: int, *counts: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((_EVALUATION_KEY, seed, *counts))


class Arena:
    """Where contestants meet: one task, its settings, and the episodes that all live through.

    Args:
        config: of the run whose policy is evaluated; says task, steps and reward.
        device: where hosts live.
        episodes: E.
        seed: of everything random.
    """

    def __init__(
        self, config: TrainingConfig, device: torch.device, *, episodes: int, seed: int
    ) -> None:
        seeds = evaluation_seeds(seed, episodes)
        self.seed = seed
        self.turns = Turns()
        self.batches = [seeds[at : at + LOCKSTEP] for at in range(0, episodes, LOCKSTEP)]
        sizes = {len(batch) for batch in self.batches}
        task = load_task(config.task)
        self._hosts = {size: divide_hosts(config, size, device, task) for size in sizes}

    def hosts(self, count: int) -> DividedHosts:
        """Return so many hosts; there are some for every batch of episodes."""
        return self._hosts[count]

    @property
    def settings(self) -> GrowthVectorEnv:
        """Any of the environments: task, shape and training settings are those of all."""
        return self._hosts[len(self.batches[0])].env

    def close(self) -> None:
        """End the processes that hold hosts."""
        for hosts in self._hosts.values():
            hosts.close()

    def play(self, name: str, what: str, player: Player) -> Played:
        """Return what came of all episodes with this player deciding.

        Args:
            name: the contestant's name.
            what: the contestant in words.
            player: makes the decisions.
        """
        self.turns.begin(f"{name}: {what}")
        played = [
            self._play_batch(what, player(len(seeds), number), number)
            for number, seeds in enumerate(self.batches)
        ]
        outcomes = joined([each.outcomes for each in played])
        self.turns.end(outcomes)
        return Played(
            outcomes,
            Architecture(
                *(
                    np.concatenate([getattr(each.architecture, name) for each in played])
                    for name in ("blueprint", "style", "alpha")
                )
            ),
        )

    def _play_batch(self, what: str, decide: Decide, number: int) -> Played:
        seeds = self.batches[number]
        hosts = self.hosts(len(seeds))
        observations, info = hosts.reset(seeds)
        over = False
        step = 0
        while not over:
            observations, _, terminated, truncated, info = hosts.step(decide(observations, info))
            over = bool((terminated | truncated).all())
            step += 1
            self.turns.at((number + step / self.settings.steps) / len(self.batches))
        finite = np.isfinite(info["score"])
        outcomes = Outcomes(
            what,
            test_accuracy=np.where(finite, hosts.test_accuracy(), 0.0),
            validation_accuracy=np.where(finite, info["final_accuracy"], 0.0),
            score=np.where(finite, info["score"], 0.0),
            parameters=info["final_parameters"],
            multiply_adds=info["multiply_adds"],
        )
        seeds_in_slots = (info[name] for name in ("stage", "blueprint", "style", "alpha"))
        return Played(outcomes, architecture_of(*seeds_in_slots))


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of several batches end to end."""
    names = ("test_accuracy", "validation_accuracy", "score", "parameters", "multiply_adds")
    return Outcomes(
        parts[0].what,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def agent_player(policy: RecurrentPolicy, seed: int, number: int) -> Player:
    """Return the learnt policy as a player that decides and does not explore.

    Args:
        policy: in its device.
        seed: of the evaluation.
        number: of the policy among those evaluated.
    """
    device = policy.critic.weight.device

    def begin(hosts: int, batch: int) -> Decide:
        generator = torch.Generator(device).manual_seed(choices_seed(seed, number, batch))
        state = policy.initial_state(hosts)

        @torch.no_grad()
        def decide(observations: np.ndarray, info: dict[str, Any]) -> np.ndarray:
            nonlocal state
            decision = act(
                policy,
                torch.as_tensor(observations, device=device),
                torch.as_tensor(info["action_mask"], device=device),
                torch.as_tensor(info["slot_mask_by_op"], device=device),
                state,
                generator,
                decisive=True,
            )
            state = decision.state
            actions: np.ndarray = decision.actions.cpu().numpy()
            return actions

        return decide

    return begin

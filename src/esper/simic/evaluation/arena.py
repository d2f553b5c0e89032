"""Episodes of an evaluation, on random seeds that training never uses.

All contestants play the same episodes: the n-th random seed determines the first weights of host n
and the order of its data.
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
from esper.simic.evaluation.outcomes import Outcomes
from esper.simic.evaluation.turns import Turns
from esper.tamiyo.acting import act
from esper.tamiyo.policy import RecurrentPolicy

#: Maximum number of episodes that run in lockstep.
LOCKSTEP = 64
#: Separates the random numbers of evaluation from those of training.
_EVALUATION_KEY = 0x6576616C
#: Added to every evaluation seed. Training draws the seeds of its episodes below 2**32.
_FIRST_SEED = 2**62

#: Maps observations `[N, F]` and the environment's info to actions `[N, 8]`.
Decide = Callable[[np.ndarray, dict[str, Any]], np.ndarray]
#: Returns a `Decide` for one batch of episodes, from the number of hosts and of the batch.
Player = Callable[[int, int], Decide]


@dataclass(frozen=True)
class Played:
    """The results of a player.

    Attributes:
        outcomes: results of all episodes.
        architecture: architecture of the finished networks.
        last_step: multiply-adds that each host spent in its last step. `[E]`
    """

    outcomes: Outcomes
    architecture: Architecture
    last_step: np.ndarray


def evaluation_seeds(rng_seed: int, episodes: int) -> list[int]:
    """Return one random seed for each episode, none of which training uses.

    Those of training are 32-bit numbers (`collecting.episode_seeds`), these are 2**62 and above.
    """
    return [
        _FIRST_SEED + int(child.generate_state(1, np.uint64)[0] >> np.uint64(2))
        for child in _sequence(rng_seed, 0).spawn(episodes)
    ]


def choices_seed(rng_seed: int, player: int, batch: int) -> int:
    """Return the random seed of a player's choices in one batch of episodes."""
    sequence = _sequence(rng_seed, 1, player, batch)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _sequence(rng_seed: int, *counts: int) -> np.random.SeedSequence:
    return np.random.SeedSequence((_EVALUATION_KEY, rng_seed, *counts))


class Arena:
    """The task and the episodes that all contestants share.

    Args:
        config: settings of the evaluated policy, for task, steps and reward.
        device: device of the hosts.
        episodes: number of episodes E.
        rng_seed: random seed of the evaluation.
    """

    def __init__(
        self, config: TrainingConfig, device: torch.device, *, episodes: int, rng_seed: int
    ) -> None:
        seeds = evaluation_seeds(rng_seed, episodes)
        self.rng_seed = rng_seed
        self.turns = Turns()
        self.batches = [seeds[at : at + LOCKSTEP] for at in range(0, episodes, LOCKSTEP)]
        self._config, self._device = config, device
        self._task = load_task(config.task)
        self._hosts: dict[int, DividedHosts] = {}
        self.hosts(len(self.batches[0]))

    def hosts(self, count: int) -> DividedHosts:
        """Return that many hosts; they are made when they are first needed."""
        if count not in self._hosts:
            self._hosts[count] = divide_hosts(self._config, count, self._device, self._task)
        return self._hosts[count]

    @property
    def settings(self) -> GrowthVectorEnv:
        """One of the environments, which all have the same task and settings."""
        return self._hosts[len(self.batches[0])].env

    @property
    def episodes(self) -> int:
        """Number of episodes E."""
        return sum(map(len, self.batches))

    def further_seeds(self, count: int) -> list[int]:
        """Return random seeds of other episodes, for choosing among candidates."""
        return evaluation_seeds(self.rng_seed, self.episodes + count)[self.episodes :]

    def close(self) -> None:
        """End the processes that hold hosts."""
        for hosts in self._hosts.values():
            hosts.close()

    def play(self, name: str, what: str, player: Player, *, steps: int | None = None) -> Played:
        """Run all episodes with a player, as one contestant.

        Args:
            name: name of the contestant.
            what: description of the contestant.
            player: chooses the actions.
            steps: steps of an episode; by default those of the settings.
        """
        self.turns.begin(f"{name}: {what}")
        played = self.run(what, player, self.batches, steps=steps, report=self.turns.at)
        self.turns.end(played.outcomes)
        return played

    def run(
        self,
        what: str,
        player: Player,
        batches: Sequence[Sequence[int]],
        *,
        first: int = 0,
        steps: int | None = None,
        report: Callable[[float], None] = lambda _fraction: None,
    ) -> Played:
        """Run episodes with a player.

        Args:
            what: description of the contestant.
            player: chooses the actions.
            batches: random seeds of the episodes of each batch.
            first: number of the first batch, for the player.
            steps: steps of an episode; by default those of the settings.
            report: receives the fraction that is done, after every step.
        """
        length = self.settings.steps if steps is None else steps
        played: list[Played] = []

        def part(done: float) -> None:
            report((len(played) + done) / len(batches))

        for number, seeds in enumerate(batches):
            decide = player(len(seeds), first + number)
            played.append(self._run_batch(what, decide, seeds, length, part))
        return Played(
            joined([each.outcomes for each in played]),
            Architecture(
                *(
                    np.concatenate([getattr(each.architecture, name) for each in played])
                    for name in ("blueprint", "style", "alpha")
                )
            ),
            np.concatenate([each.last_step for each in played]),
        )

    def _run_batch(
        self,
        what: str,
        decide: Decide,
        seeds: Sequence[int],
        steps: int,
        report: Callable[[float], None],
    ) -> Played:
        hosts = self.hosts(len(seeds))
        before = hosts.env.steps
        hosts.set_steps(steps)
        observations, info = hosts.reset(seeds)
        over = False
        step = 0
        while not over:
            spent = info["multiply_adds"]
            observations, _, terminated, truncated, info = hosts.step(decide(observations, info))
            over = bool((terminated | truncated).all())
            step += 1
            report(step / steps)
        hosts.set_steps(before)
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
        return Played(outcomes, architecture_of(*seeds_in_slots), info["multiply_adds"] - spent)


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the concatenated results of several batches."""
    names = ("test_accuracy", "validation_accuracy", "score", "parameters", "multiply_adds")
    return Outcomes(
        parts[0].what,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def agent_player(policy: RecurrentPolicy, rng_seed: int, number: int) -> Player:
    """Return a trained policy as a player that does not explore.

    Args:
        policy: the policy, on its device.
        rng_seed: random seed of the evaluation.
        number: number of the policy among those evaluated, counted from 1.
    """
    device = policy.critic.weight.device

    def begin(hosts: int, batch: int) -> Decide:
        generator = torch.Generator(device).manual_seed(choices_seed(rng_seed, number, batch))
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

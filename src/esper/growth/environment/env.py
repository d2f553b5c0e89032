"""The vector environment: N hosts that train in lockstep, with one action each per slice."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from esper.growth.environment.actions import apply_actions, illegal_actions
from esper.growth.environment.cohort import (
    added_ratio,
    begin_episodes,
    has_rng_seed,
    measure_finished,
    measure_score,
    new_cohort,
    set_rng_seed,
    train_and_measure,
)
from esper.growth.environment.masks import action_mask, legal_slots
from esper.growth.environment.observation import HIGH, LOW, observe
from esper.growth.environment.reward import REWARD_TERMS, RewardSettings, final_score, reward_terms
from esper.growth.hosts.finished import FinishedNetwork, finished_network
from esper.growth.hosts.host import HostShape
from esper.growth.hosts.lockstep import predict
from esper.growth.hosts.plan import make_final_plan
from esper.growth.kernel.adam import AdamSettings
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.task import Split, Task
from esper.leyline.errors import EsperError
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Stage


class EnvironmentSettingsError(EsperError, ValueError):
    """An argument of the environment is out of range."""


class GrowthVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Hosts that grow while they train.

    A step applies one action to each host, then trains every host on its next slice of data and
    measures it on the validation part. The horizon **terminates** an episode (it does not truncate
    it): the time left is observed, and the score at the end is final.

    An action is a choice of each head, in `HEAD_NAMES` order; heads that the chosen op does not use
    are ignored. An op on a slot that does not allow it counts as WAIT and shows in
    `info["illegal"]`.

    `info`, at reset and at each step, N hosts by S slots:

    - `action_mask` `[N, 36]`: choices legal under at least one op, heads in `HEAD_NAMES` order
    - `slot_mask_by_op` `[N, 6, S]`: the slots each op may be used on; an op with none is illegal
    - `accuracy`, `loss` `[N]`: on the validation part; `parameters` `[N]`: of host and seeds
    - `stage`, `alpha`, `blueprint`, `style` `[N, S]`: of each slot; blueprint and style are -1
      where it is empty
    - `multiply_adds` `[N]`: spent on training in the episode so far, as
      `esper.growth.hosts.training_cost` counts them
    - `nonfinite`: a list of `host_faults.HostFault`, by host: the causes in every host
      that is not finite now, because its loss, a parameter or a moment of its optimizer is NaN or
      infinite. Consequences are left out. A host is listed in each step in which it is not finite.

    and only at steps:

    - `reward_terms`: by name, each `[N]`; they add up to the reward
    - `transitions`: changes of stage of seeds, a list of `esper.growth.hosts.seeds.Transition`
    - `illegal` `[N]`: hosts whose action was illegal
    - `training_samples`: samples trained on in this step, over all hosts
    - if an episode ended: `score`, `final_accuracy`, `final_parameters` (all with FOSSILIZED seeds
      alone) and `fossilized` (how many), each `[N]` with a mask `_score` and so on, as Gymnasium
      has it; `score`, and with it the reward, is NaN where the finished network's loss is not
      finite

    A host that is not finite never changes another one. Its observation may hold NaN, its accuracy
    counts a sample with a NaN output as wrong, and it can be stepped until its episode ends.

    With SAME_STEP autoreset, a host whose episode ended is initialised again within the step:
    `final_obs` and `final_info` then belong to the ended episode, and the states in `info` to the
    new one.

    Args:
        num_envs: N.
        task: the name of a task, or a task.
        steps: steps in an episode.
        device: torch device of the hosts.
        autoreset_mode: SAME_STEP; or DISABLED, where `reset` must be called when episodes end.
        reward: settings of the reward.
        channels: channels of the hosts; None takes the task's default.
        batch: samples in a minibatch.
        batches: minibatches in a slice.
        optimizer: settings of the hosts' optimizer.
        threads: torch threads that `reset` and `step` may use. One is fastest for few hosts;
            on a busy machine several are many times slower. None leaves torch's setting.

    Raises:
        UnknownTaskError, InvalidTaskError, EnvironmentSettingsError, HostShapeError,
            SliceSizeError: an argument cannot be used.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str | Task = "mnist1d",
        steps: int = 24,
        device: str | torch.device = "cpu",
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        reward: RewardSettings | None = None,
        channels: int | None = None,
        batch: int = 50,
        batches: int = 16,
        optimizer: AdamSettings | None = None,
        threads: int | None = 1,
    ) -> None:
        counts = {"num_envs": num_envs, "steps": steps, "batch": batch, "batches": batches}
        if threads is not None:
            counts["threads"] = threads
        for name, value in counts.items():
            if value < 1:
                raise EnvironmentSettingsError(f"{name} is {value}: it must be at least 1")
        mode = AutoresetMode(autoreset_mode)
        if mode is AutoresetMode.NEXT_STEP:
            raise EnvironmentSettingsError(
                "autoreset_mode NEXT_STEP would train hosts in steps that are thrown away: use "
                "SAME_STEP or DISABLED"
            )
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode, "render_modes": []}
        self.single_observation_space = gymnasium.spaces.Box(LOW, HIGH, dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = gymnasium.spaces.MultiDiscrete(list(HEAD_SIZES))
        self.action_space = batch_space(self.single_action_space, num_envs)

        self.task = load_task(task) if isinstance(task, str) else task
        self.steps, self.batch, self.batches = steps, batch, batches
        self.threads = threads
        self.reward_settings = reward or RewardSettings()
        self.optimizer = optimizer or AdamSettings()
        target = torch.device(device)
        self._train, self._validation, self._test = (
            replace(part, inputs=part.inputs.to(target), labels=part.labels.to(target))
            for part in (self.task.train, self.task.validation, self.task.test)
        )
        self._cohort = new_cohort(
            num_envs,
            HostShape(
                self.task.input_shape,
                self.task.classes,
                self.task.channels if channels is None else channels,
                self.task.symbols,
            ),
            samples=len(self._train),
            batch=batch,
            batches=batches,
            device=target,
            dtype=self.task.dtype,
        )
        self._over = np.ones(num_envs, dtype=bool)  # hosts without a running episode

    @property
    def device(self) -> torch.device:
        """The torch device of hosts and data."""
        return self._train.inputs.device

    @property
    def parts(self) -> tuple[Split, Split, Split]:
        """The task's training, validation and test part, on the device."""
        return self._train, self._validation, self._test

    @property
    def host_shape(self) -> HostShape:
        """The architecture of the hosts."""
        return self._cohort.population.shape

    @property
    def host_parameters(self) -> int:
        """Parameters of a host before any growth."""
        return self.host_shape.layout.size

    def test_accuracy(self) -> np.ndarray:
        """Return each host's accuracy on the test part, with its FOSSILIZED seeds alone. `[N]`

        For final scores: call it when episodes have ended and before `reset`, in the DISABLED
        autoreset mode.
        """
        with _torch_threads(self.threads):
            return measure_finished(self._cohort, self._test).accuracy

    def test_logits(self) -> torch.Tensor:
        """Return the logits of each host on the test part, with its FOSSILIZED seeds alone.

        Returns:
            `[N, n, classes]`.
        """
        population, seeds = self._cohort.population, self._cohort.seeds
        with _torch_threads(self.threads):
            return predict(population, make_final_plan(population, seeds), self._test)

    def action_masks(self) -> np.ndarray:
        """Return the mask of legal choices, `info["action_mask"]`. `[N, 36]`, bool"""
        return action_mask(legal_slots(self._cohort.seeds))

    def finished_network(self, host: int) -> FinishedNetwork:
        """Return a copy of a host with its FOSSILIZED seeds, as `test_accuracy` measures it."""
        return finished_network(self._cohort.population, self._cohort.seeds, host)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes, of all hosts or of those in `options["reset_mask"]`.

        Args:
            seed: random seed of each host; a single number n means n, n + 1, n + 2, and so on. It
                determines the episode that begins and all after it, bit for bit given the same
                actions, hosts and threads. None begins the next episode of the last random seed.
            options: may hold `reset_mask`, bool `[N]`.

        Raises:
            EnvironmentSettingsError: seeds or mask do not fit the hosts.
        """
        given = self._seeds_by_host(seed)
        super().reset(seed=int(seed) if isinstance(seed, int | np.integer) else None)
        mask = np.ones(self.num_envs, dtype=bool)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise EnvironmentSettingsError(
                    f"reset_mask must be {self.num_envs} booleans, at least one of them True"
                )
        hosts = np.flatnonzero(mask)
        for host in hosts.tolist():
            value = given[host]
            if value is None and not has_rng_seed(self._cohort, host):
                value = int(self.np_random.integers(2**62))
            if value is not None:
                set_rng_seed(self._cohort, host, value)
        with _torch_threads(self.threads):
            begin_episodes(self._cohort, hosts, self._validation)
        self._over[hosts] = False
        return self._observe(), self._state()

    def _seeds_by_host(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            seed = [int(seed) + host for host in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise EnvironmentSettingsError(
                f"there are {len(seed)} seeds for {self.num_envs} hosts: give one number, or one "
                "for each host"
            )
        if any(value is not None and value < 0 for value in seed):
            raise EnvironmentSettingsError(f"seeds must not be negative, as in {list(seed)}")
        return list(seed)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act on each host, then train and measure all of them.

        Args:
            actions: a choice of each head, in `HEAD_NAMES` order. `[N, 8]`, integers

        Returns:
            Observations `[N, F]`, rewards `[N]`, terminations `[N]`, truncations `[N]` (never)
            and the info described above.

        Raises:
            gymnasium.error.ResetNeeded: some host has no running episode.
            gymnasium.error.InvalidAction: the actions are not of the action space.
        """
        if self._over.any():
            raise gymnasium.error.ResetNeeded(
                f"hosts {np.flatnonzero(self._over).tolist()} have no running episode: call reset"
            )
        actions = np.asarray(actions)
        if actions.dtype.kind not in "iu" or not self.action_space.contains(
            actions.astype(np.int64)
        ):
            raise gymnasium.error.InvalidAction(
                f"actions must be integers of shape ({self.num_envs}, {len(HEAD_NAMES)}), each "
                f"column from 0 to below {HEAD_SIZES}"
            )
        with _torch_threads(self.threads):
            return self._step(actions)

    def _step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        cohort, before = self._cohort, self._cohort.progress.accuracy
        illegal = illegal_actions(actions, legal_slots(cohort.seeds))
        transitions = apply_actions(
            cohort.population, cohort.seeds, actions, np.flatnonzero(~illegal)
        )
        transitions += train_and_measure(
            cohort, self._train, self._validation, self.batch, self.batches, self.optimizer
        )
        ended = cohort.progress.step >= self.steps
        final = self._final(ended)
        terms = reward_terms(
            before,
            cohort.progress.accuracy,
            added_ratio(cohort),
            ended,
            final["score"],
            self.reward_settings,
        )
        info = self._state() | {
            "reward_terms": terms,
            "transitions": transitions,
            "illegal": illegal,
            "training_samples": self.num_envs * self.batch * self.batches,
        }
        self._over = ended.copy()
        if ended.any():
            info |= final | {f"_{name}": ended.copy() for name in final}
        observation = self._observe()
        if ended.any() and self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP:
            observation, info = self._begin_again(ended, observation, info)
        reward = np.sum([terms[name] for name in REWARD_TERMS], axis=0)
        return observation, reward, ended.copy(), np.zeros(self.num_envs, dtype=bool), info

    def _final(self, ended: np.ndarray) -> dict[str, np.ndarray]:
        """Return score, accuracy and seeds of the finished networks, zeros for the others.

        Networks that are not finite are added to the faults of the cohort.
        """
        if not ended.any():
            nothing = np.zeros(self.num_envs)
            names = ("score", "final_accuracy", "final_parameters", "fossilized")
            return dict.fromkeys(names, nothing)
        cohort = self._cohort
        measured = measure_score(cohort, ended, self._validation)
        accuracy, is_finite = measured.accuracy, np.isfinite(measured.losses.loss)
        ratio = added_ratio(cohort, fossilized=True)
        score = final_score(accuracy, ratio, self.reward_settings)
        fossilized = (cohort.seeds.stage == Stage.FOSSILIZED).sum(axis=1)
        return {
            "score": np.where(ended, np.where(is_finite, score, np.nan), 0.0),
            "final_accuracy": np.where(ended, accuracy, 0.0),
            "final_parameters": np.where(ended, self._parameters(ratio), 0),
            "fossilized": np.where(ended, fossilized, 0),
        }

    def _begin_again(
        self, ended: np.ndarray, observation: np.ndarray, info: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        final_observations = np.full(self.num_envs, None, dtype=object)
        for host in np.flatnonzero(ended):
            final_observations[host] = observation[host]
        observations, state = self.reset(options={"reset_mask": ended})
        return observations, info | state | {
            "final_obs": final_observations,
            "_final_obs": ended.copy(),
            "final_info": info,
            "_final_info": ended.copy(),
        }

    def _observe(self) -> np.ndarray:
        cohort = self._cohort
        return observe(
            cohort.progress, cohort.seeds, added_ratio(cohort), self.steps, self.task.classes
        )

    def _state(self) -> dict[str, Any]:
        cohort = self._cohort
        legal = legal_slots(cohort.seeds)
        return {
            "action_mask": action_mask(legal),
            "slot_mask_by_op": legal,
            "accuracy": cohort.progress.accuracy.copy(),
            "loss": cohort.progress.loss.copy(),
            "parameters": self._parameters(added_ratio(cohort)),
            "stage": cohort.seeds.stage.copy(),
            "alpha": cohort.seeds.alpha.copy(),
            "blueprint": cohort.seeds.blueprint.copy(),
            "style": cohort.seeds.style.copy(),
            "multiply_adds": cohort.progress.multiply_adds.copy(),
            "nonfinite": list(cohort.faults),
        }

    def _parameters(self, added_ratio: np.ndarray) -> np.ndarray:
        """Return the parameters of hosts with added ones, given over those of a bare host. `[N]`"""
        return self.host_parameters + np.rint(added_ratio * self.host_parameters).astype(np.int64)


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Limit torch to a number of threads within the context; None leaves its setting."""
    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

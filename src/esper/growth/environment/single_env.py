"""The environment with one host, for libraries that make and divide environments themselves."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from esper.growth.environment.env import EnvironmentSettingsError, GrowthVectorEnv
from esper.growth.environment.reward import RewardSettings
from esper.growth.kernel.adam import AdamSettings
from esper.growth.tasks.task import Task


class GrowthEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One host that grows while it trains; `GrowthVectorEnv` trains many of them in lockstep.

    Observations, actions, rewards and `info` are those of one host of `GrowthVectorEnv`: `info` has
    the same keys with the values of that host, without masks such as `_score`.

    Args:
        task: the name of a task, or a task.
        steps: steps in an episode.
        device: torch device of the host.
        reward: settings of the reward.
        channels: channels of the host; None takes the task's default.
        batch: samples in a minibatch.
        batches: minibatches in a step.
        optimizer: settings of the host's optimizer.
        threads: torch threads that `reset` and `step` may use; None leaves torch's setting.

    Raises:
        UnknownTaskError, InvalidTaskError, EnvironmentSettingsError, HostShapeError,
            SliceSizeError: an argument cannot be used.
    """

    def __init__(
        self,
        task: str | Task = "mnist1d",
        steps: int = 24,
        device: str | torch.device = "cpu",
        reward: RewardSettings | None = None,
        channels: int | None = None,
        batch: int = 50,
        batches: int = 16,
        optimizer: AdamSettings | None = None,
        threads: int | None = 1,
    ) -> None:
        self._host = GrowthVectorEnv(
            1,
            task=task,
            steps=steps,
            device=device,
            autoreset_mode=AutoresetMode.DISABLED,
            reward=reward,
            channels=channels,
            batch=batch,
            batches=batches,
            optimizer=optimizer,
            threads=threads,
        )
        self.observation_space = self._host.single_observation_space
        self.action_space = self._host.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: random seed of this episode and those after it; None begins the next episode of
                the last random seed.
            options: there are none.
        """
        super().reset(seed=seed)
        if options:
            raise EnvironmentSettingsError(
                f"reset has no option {', '.join(map(repr, options))}: it takes a seed only"
            )
        observations, info = self._host.reset(seed=seed)
        return observations[0], _of_host(info)

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """Act on the host, train it on its next slice of data, and measure it.

        Args:
            action: a choice of each head, in `HEAD_NAMES` order. `[8]`, integers

        Raises:
            gymnasium.error.ResetNeeded: no episode is running.
            gymnasium.error.InvalidAction: the action is not of the action space.
        """
        observations, rewards, terminated, truncated, info = self._host.step(
            np.asarray(action)[None]
        )
        return (
            observations[0],
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _of_host(info),
        )

    def action_masks(self) -> np.ndarray:
        """Return which choices are legal, heads one after the other, for MaskablePPO. `[36]`"""
        masks: np.ndarray = self._host.action_masks()[0]
        return masks


def _of_host(info: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the only host."""
    return {key: _value(value) for key, value in info.items() if not key.startswith("_")}


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _value(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return value[0].copy() if value.ndim > 1 else value[0].item()
    return value

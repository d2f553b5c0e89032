"""Stable-Baselines3 algorithms with settings so small that an update takes milliseconds."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
from gymnasium import spaces

#: Steps of one rollout of an on-policy algorithm, and of training of the others.
ROLLOUT = 32
_ON_POLICY = {"n_steps": ROLLOUT, "policy_kwargs": {"net_arch": [8]}}
_MINIBATCHES = {**_ON_POLICY, "batch_size": 16, "n_epochs": 2}
_OFF_POLICY = {
    "learning_starts": 8, "batch_size": 8, "buffer_size": 200, "policy_kwargs": {"net_arch": [8]},
}  # fmt: skip
DISCRETE = spaces.Discrete(3)
MULTI_DISCRETE = spaces.MultiDiscrete([2, 3])
MULTI_BINARY = spaces.MultiBinary(3)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)

#: Class, policy, settings and action spaces of each algorithm.
ALGORITHMS: dict[str, tuple[Any, str, dict[str, Any], list[spaces.Space]]] = {
    "PPO": (
        stable_baselines3.PPO, "MlpPolicy", _MINIBATCHES,
        [DISCRETE, MULTI_DISCRETE, MULTI_BINARY, BOX],
    ),
    "A2C": (stable_baselines3.A2C, "MlpPolicy", _ON_POLICY, [DISCRETE, BOX]),
    "MaskablePPO": (
        sb3_contrib.MaskablePPO, "MlpPolicy", _MINIBATCHES, [DISCRETE, MULTI_DISCRETE],
    ),
    "RecurrentPPO": (
        sb3_contrib.RecurrentPPO, "MlpLstmPolicy",
        {**_MINIBATCHES, "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}},
        [DISCRETE, BOX],
    ),
    "DQN": (
        stable_baselines3.DQN, "MlpPolicy",
        {**_OFF_POLICY, "train_freq": 4, "gradient_steps": 2}, [DISCRETE],
    ),
    "QRDQN": (
        sb3_contrib.QRDQN, "MlpPolicy",
        {**_OFF_POLICY, "train_freq": 4, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}},
        [DISCRETE],
    ),
    "SAC": (stable_baselines3.SAC, "MlpPolicy", _OFF_POLICY, [BOX]),
    "TD3": (stable_baselines3.TD3, "MlpPolicy", _OFF_POLICY, [BOX]),
    "TQC": (
        sb3_contrib.TQC, "MlpPolicy",
        {**_OFF_POLICY, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}}, [BOX],
    ),
    "ARS": (sb3_contrib.ARS, "LinearPolicy", {"n_delta": 2}, [BOX, DISCRETE]),
}  # fmt: skip
ON_POLICY = ("PPO", "A2C", "MaskablePPO", "RecurrentPPO")
CASES = [(name, space) for name, (*_, spaces_) in ALGORITHMS.items() for space in spaces_]
CASE_NAMES = [f"{name}-{type(space).__name__}" for name, space in CASES]


class Walk(gymnasium.Env[Any, Any]):
    """A random walk of 10 steps; something wrong is planted at one of its steps.

    Args:
        action_space: of the environment.
        plant: is given the number of the step, counted from 1 over all episodes, the observation
            and the reward; returns both.
    """

    def __init__(
        self,
        action_space: spaces.Space[Any],
        plant: Callable[[int, Any, float], tuple[Any, float]] = lambda _, seen, reward: (
            seen,
            reward,
        ),
    ) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Box(-5.0, 5.0, (4,), np.float32)
        self._plant = plant
        self._random = np.random.default_rng(7)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        observation, reward = self._plant(
            self._step, self._observation(), float(np.asarray(action).sum())
        )
        return observation, reward, self._step % 10 == 0, False, {}

    def action_masks(self) -> np.ndarray[Any, Any]:
        """Return which choices are legal: all but the first, every third step."""
        space = self.action_space
        if isinstance(space, spaces.MultiBinary):  # each bit has two choices
            space = spaces.MultiDiscrete([2] * int(space.n))
        choices = int(space.n) if hasattr(space, "n") else int(space.nvec.sum())
        masks = np.ones(choices, bool)
        masks[0] = self._step % 3 != 0
        return masks

    def _observation(self) -> Any:
        return self._random.normal(size=4).astype(np.float32)


def build(
    name: str, space: spaces.Space[Any], env: gymnasium.Env[Any, Any] | None = None, **more: Any
) -> Any:
    """Return an algorithm; `more` replaces settings."""
    cls, policy, settings, _ = ALGORITHMS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(
            policy, Walk(space) if env is None else env, seed=3, device="cpu",
            **copy.deepcopy({**settings, **more}),  # some algorithms write into their settings
        )  # fmt: skip

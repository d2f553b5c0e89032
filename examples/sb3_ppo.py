"""Stable-Baselines3 with Esper's lights: one callback.

    python examples/sb3_ppo.py
    sanctum                             # in another terminal, or afterwards

`--break-at STEP` gives one observation a NaN, to see what Esper says.
"""

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

from esper.integrations.sb3 import EsperCallback


class FailingSensor(gym.ObservationWrapper):
    """Returns one observation with a NaN."""

    def __init__(self, env: gym.Env, at: int) -> None:
        super().__init__(env)
        self._at = at
        self._count = 0

    def observation(self, observation: np.ndarray) -> np.ndarray:
        self._count += 1
        if self._count == self._at:
            observation = observation.copy()
            observation[1] = np.nan
        return observation


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--break-at", type=int, default=0, metavar="STEP")
    options = parser.parse_args()

    env = FailingSensor(gym.make("CartPole-v1"), options.break_at)
    model = PPO("MlpPolicy", env, n_steps=512, seed=1, device="cpu")
    model.learn(options.steps, callback=EsperCallback(name="cartpole"))


if __name__ == "__main__":
    main()

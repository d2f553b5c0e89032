"""RLlib's PPO with Esper's lights: one watch for the learner's module, one for the acting copy.

    pip install "ray[rllib]"
    python examples/rllib_ppo.py
    esper runs && sanctum

`--break-at STEP` gives one observation a NaN, `--break-rewards-at STEP` every reward from there on.
RLlib then replaces the gradients that are NaN by zeros, and training continues without learning.
"""

import argparse

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

import esper


class Breakable(gym.Wrapper):
    """Returns bad values in chosen steps."""

    steps = 0
    break_at = break_rewards_at = 0

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        Breakable.steps += 1
        if Breakable.steps == self.break_at:
            observation = np.full_like(observation, np.nan)
        if 0 < self.break_rewards_at <= Breakable.steps:
            reward = float("nan")
        return observation, reward, terminated, truncated, info


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--break-at", type=int, default=0, metavar="STEP")
    parser.add_argument("--break-rewards-at", type=int, default=0, metavar="STEP")
    options = parser.parse_args()
    Breakable.break_at, Breakable.break_rewards_at = options.break_at, options.break_rewards_at

    register_env("breakable", lambda _config: Breakable(gym.make("CartPole-v1")))
    config = PPOConfig().environment("breakable")
    config = config.env_runners(num_env_runners=0).learners(num_learners=0)  # in this process
    config = config.training(train_batch_size_per_learner=256, minibatch_size=64, num_epochs=2)
    algorithm = config.build_algo()

    learner = algorithm.learner_group._learner
    module = learner.module["default_policy"].unwrapped()
    optimizers = [one for _, one in learner.get_optimizers_for_module("default_policy")]
    heads = algorithm.env_runner.module.action_space
    with (
        esper.watch(algorithm.env_runner.module, heads=heads, name="acting"),
        esper.watch(module, optimizers, heads=heads, name="learning") as watch,
    ):
        for _ in range(options.updates):
            learned = algorithm.train()["learners"]["default_policy"]
            figures = {name: float(learned[name]) for name in ("policy_loss", "vf_loss", "entropy")}
            for loss in ("policy_loss", "vf_loss"):  # RLlib hides what a NaN in it does
                watch.check("shared", figures[loss], loss, made_by="RLlib's learner")
            watch.update(**figures)
    algorithm.stop()


if __name__ == "__main__":
    main()

"""PPO as a single file, in the manner of CleanRL, with Esper's lights.

    python examples/plain_loop.py
    sanctum                             # in another terminal, or afterwards

Only the two lines marked with "Esper" are not part of the training. `--break-at STEP` gives one
observation a NaN, to see what Esper says.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import esper


class Agent(nn.Module):
    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        super().__init__()
        inputs = int(np.prod(envs.single_observation_space.shape))
        self.critic = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 1))
        self.actor = nn.Sequential(
            nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, int(envs.single_action_space.n))
        )

    def act(self, observations, action=None):
        choices = Categorical(logits=self.actor(observations))
        action = choices.sample() if action is None else action
        value = self.critic(observations).squeeze(-1)
        return action, choices.log_prob(action), choices.entropy(), value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--break-at", type=int, default=0, metavar="STEP")
    parser.add_argument("--learning-rate", type=float, default=2.5e-4)
    options = parser.parse_args()

    torch.manual_seed(1)
    envs = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync")
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=options.learning_rate, eps=1e-5)
    steps, gamma, clip = 128, 0.99, 0.2

    watch = esper.watch(agent, optimizer, heads=envs.single_action_space, name="cartpole")  # Esper
    observation, _ = envs.reset(seed=1)
    observation = torch.tensor(observation)
    done = torch.zeros(4)
    step_number = 0
    for _update in range(options.updates):
        obs = torch.zeros(steps, 4, *envs.single_observation_space.shape)
        actions, logprobs, rewards, dones, values = (torch.zeros(steps, 4) for _ in range(5))
        for step in range(steps):
            step_number += 1
            obs[step], dones[step] = observation, done
            with torch.no_grad():
                action, logprobs[step], _, values[step] = agent.act(observation)
            actions[step] = action
            following, reward, terminated, truncated, _ = envs.step(action.numpy())
            rewards[step] = torch.tensor(reward)
            observation = torch.tensor(following)
            done = torch.tensor(terminated | truncated, dtype=torch.float32)
            if step_number == options.break_at:
                observation[2, 0] = torch.nan

        with torch.no_grad():
            next_value = agent.act(observation)[3]
        returns = torch.zeros(steps, 4)
        following_return = next_value
        for step in reversed(range(steps)):
            ended = done if step == steps - 1 else dones[step + 1]
            following_return = rewards[step] + gamma * following_return * (1 - ended)
            returns[step] = following_return
        advantages = (returns - values).flatten()
        b_obs, b_actions = obs.flatten(0, 1), actions.flatten()
        b_logprobs, b_returns = logprobs.flatten(), returns.flatten()

        for _epoch in range(4):
            order = torch.randperm(len(b_obs))
            for start in range(0, len(b_obs), 128):
                mb = order[start : start + 128]
                _, newlogprob, entropy, newvalue = agent.act(b_obs[mb], b_actions[mb])
                ratio = (newlogprob - b_logprobs[mb]).exp()
                mb_advantages = advantages[mb]
                mb_advantages = (mb_advantages - mb_advantages.mean()) / (
                    mb_advantages.std() + 1e-8
                )
                pg_loss = torch.max(
                    -mb_advantages * ratio, -mb_advantages * ratio.clamp(1 - clip, 1 + clip)
                ).mean()
                v_loss = 0.5 * (newvalue - b_returns[mb]).square().mean()
                loss = pg_loss - 0.01 * entropy.mean() + 0.5 * v_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        watch.update(pg_loss=pg_loss.item(), v_loss=v_loss.item(), value=values.mean())  # Esper


if __name__ == "__main__":
    main()

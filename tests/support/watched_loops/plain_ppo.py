"""PPO as single-file scripts write it: choices, several choices, or a Gaussian."""

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from watched_loops.broken_layers import UserLayer
from watched_loops.stage import Stage, World

SIZE = 5  # numbers in an observation
ENVS = 4
STEPS = 8


class Envs:
    """Environments that return random numbers."""

    def __init__(self, seed: int, sizes: Sequence[int], world: World, *, masks: bool) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.sizes = sizes
        self.world = world
        self.has_masks = masks

    def observe(self) -> Tensor:
        observations = torch.randn(ENVS, SIZE, generator=self.generator)
        observations *= self.world.observation_scale
        observations[1, 2] += self.world.take_observation()
        if self.world.dead:
            observations[:, 0] = 0
        return observations

    def masks(self) -> Tensor | None:
        """Return which choices are legal; the first of each head always is."""
        if not self.has_masks:
            return None
        legal = torch.rand(ENVS, sum(self.sizes), generator=self.generator) < 0.6
        starts = np.cumsum([0, *self.sizes[:-1]])
        legal[:, starts.tolist()] = True
        return legal

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rewards = torch.randn(ENVS, generator=self.generator) * self.world.reward_scale
        rewards[2] += self.world.take_reward()
        return self.observe(), rewards, torch.rand(ENVS, generator=self.generator) < 0.05


class DiscreteAgent(nn.Module):
    """A trunk, the logits of one or several choices, and a critic."""

    def __init__(self, sizes: Sequence[int], layer: UserLayer, fill: float) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.fill = fill
        self.network = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh(), layer)
        self.actor = nn.Linear(16, sum(sizes))
        self.critic = nn.Linear(16, 1)

    def get_value(self, x: Tensor) -> Tensor:
        return self.critic(self.network(x))

    def get_action_and_value(
        self, x: Tensor, masks: Tensor | None = None, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        hidden = self.network(x)
        logits = self.actor(hidden)
        if masks is not None:
            logits = torch.where(masks, logits, self.fill)
        split_logits = torch.split(logits, self.sizes, dim=1)
        choices = [Categorical(logits=logits) for logits in split_logits]
        if action is None:
            action = torch.stack([choice.sample() for choice in choices], dim=1)
        logprob = torch.stack([c.log_prob(a) for a, c in zip(action.T, choices, strict=True)])
        entropy = torch.stack([choice.entropy() for choice in choices])
        return action, logprob.sum(0), entropy.sum(0), self.critic(hidden)


class BoxAgent(nn.Module):
    """A trunk, the means of a Gaussian with a learned standard deviation, and a critic."""

    def __init__(self, dimensions: int, layer: UserLayer) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh(), layer)
        self.actor_mean = nn.Linear(16, dimensions)
        self.actor_logstd = nn.Parameter(torch.zeros(1, dimensions))
        self.critic = nn.Linear(16, 1)

    def get_value(self, x: Tensor) -> Tensor:
        return self.critic(self.network(x))

    def get_action_and_value(
        self, x: Tensor, masks: None = None, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        hidden = self.network(x)
        action_mean = self.actor_mean(hidden)
        action_logstd = self.actor_logstd.expand_as(action_mean)
        action_std = torch.exp(action_logstd)
        probs = Normal(action_mean, action_std)
        if action is None:
            action = probs.sample()
        return (
            action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(hidden),
        )  # fmt: skip


class Args:
    """Settings of a script."""

    def __init__(self, random: Random) -> None:
        self.gamma = 0.99
        self.gae_lambda = 0.95
        self.clip_coef = 0.2
        self.ent_coef = 0.01
        self.vf_coef = 0.5
        self.max_grad_norm = random.choice([0.5, 0.5, 0.5, 0.0])  # 0: not clipped
        self.norm_adv = random.random() < 0.7
        self.update_epochs = 2
        self.minibatch_size = 16


def train(stage: Stage) -> None:
    """Train, as CleanRL's scripts do."""
    agent, (optimizer,) = stage.extra["agent"], stage.optimizers
    envs, args = stage.extra["envs"], stage.extra["args"]
    batch_size = STEPS * ENVS
    obs = torch.zeros(STEPS, ENVS, SIZE)
    actions = torch.zeros(STEPS, ENVS, stage.extra["action_size"])
    logprobs = torch.zeros(STEPS, ENVS)
    rewards = torch.zeros(STEPS, ENVS)
    dones = torch.zeros(STEPS, ENVS)
    values = torch.zeros(STEPS, ENVS)
    masks = torch.zeros(STEPS, ENVS, stage.output.out_features, dtype=torch.bool)
    next_obs, next_done, next_masks = envs.observe(), torch.zeros(ENVS), envs.masks()

    for update in range(1, stage.updates + 1):
        stage.begin_acting(update)
        for step in range(STEPS):
            obs[step] = next_obs
            dones[step] = next_done
            if next_masks is not None:
                masks[step] = next_masks
            with torch.no_grad():
                action, logprob, _, value = agent.get_action_and_value(next_obs, next_masks)
                values[step] = value.flatten()
            actions[step] = action
            logprobs[step] = logprob
            next_obs, reward, done = envs.step(action)
            rewards[step] = reward
            next_done, next_masks = done.float(), envs.masks()

        with torch.no_grad():
            next_value = agent.get_value(next_obs).reshape(1, -1)
            advantages = torch.zeros_like(rewards)
            lastgaelam = 0
            for t in reversed(range(STEPS)):
                if t == STEPS - 1:
                    nextnonterminal = 1.0 - next_done
                    nextvalues = next_value
                else:
                    nextnonterminal = 1.0 - dones[t + 1]
                    nextvalues = values[t + 1]
                delta = rewards[t] + args.gamma * nextvalues * nextnonterminal - values[t]
                lastgaelam = delta + args.gamma * args.gae_lambda * nextnonterminal * lastgaelam
                advantages[t] = lastgaelam
            returns = advantages + values

        b_obs = obs.reshape(-1, SIZE)
        b_logprobs = logprobs.reshape(-1)
        b_actions = actions.reshape(batch_size, -1)
        b_advantages = advantages.reshape(-1)
        b_returns = returns.reshape(-1)
        b_masks = None if next_masks is None else masks.reshape(batch_size, -1)
        stage.begin_learning(
            update,
            {
                "observations": b_obs,
                "log_probs": b_logprobs,
                "advantages": b_advantages,
                "returns": b_returns,
            },
        )

        b_inds = np.arange(batch_size)
        for _epoch in range(args.update_epochs):
            np.random.shuffle(b_inds)
            for start in range(0, batch_size, args.minibatch_size):
                mb_inds = b_inds[start : start + args.minibatch_size]
                _, newlogprob, entropy, newvalue = agent.get_action_and_value(
                    b_obs[mb_inds], None if b_masks is None else b_masks[mb_inds],
                    b_actions[mb_inds],
                )  # fmt: skip
                logratio = newlogprob - b_logprobs[mb_inds]
                ratio = logratio.exp()

                mb_advantages = b_advantages[mb_inds]
                if args.norm_adv:
                    mb_advantages = (mb_advantages - mb_advantages.mean()) / (
                        mb_advantages.std() + 1e-8
                    )

                pg_loss1 = -mb_advantages * ratio
                pg_loss2 = -mb_advantages * ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                pg_loss = torch.max(pg_loss1, pg_loss2).mean()
                v_loss = 0.5 * ((newvalue.view(-1) - b_returns[mb_inds]) ** 2).mean()
                entropy_loss = entropy.mean()
                loss = pg_loss - args.ent_coef * entropy_loss + v_loss * args.vf_coef

                optimizer.zero_grad()
                loss.backward()
                if args.max_grad_norm:
                    nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optimizer.step()

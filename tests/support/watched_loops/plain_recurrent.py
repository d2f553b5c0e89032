"""Recurrent PPO as single-file scripts write it: minibatches of whole environments.

It repeats lines of `plain_ppo` because such scripts do: the watch reads the local variables of one
function that holds the whole loop.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from watched_loops.broken_layers import UserLayer
from watched_loops.plain_ppo import ENVS, SIZE, STEPS
from watched_loops.stage import Stage

States = tuple[Tensor, Tensor]


class RecurrentAgent(nn.Module):
    """A trunk, an LSTM, the logits of one or several choices, and a critic."""

    def __init__(self, sizes: Sequence[int], layer: UserLayer) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.network = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh(), layer)
        self.lstm = nn.LSTM(16, 16)
        self.actor = nn.Linear(16, sum(sizes))
        self.critic = nn.Linear(16, 1)

    def get_states(self, x: Tensor, lstm_state: States, done: Tensor) -> tuple[Tensor, States]:
        hidden = self.network(x)
        batch_size = lstm_state[0].shape[1]
        hidden = hidden.reshape((-1, batch_size, 16))
        done = done.reshape((-1, batch_size))
        new_hidden = []
        for h, d in zip(hidden, done, strict=True):
            keep = (1.0 - d).view(1, -1, 1)
            h, lstm_state = self.lstm(
                h.unsqueeze(0), (keep * lstm_state[0], keep * lstm_state[1])
            )  # fmt: skip
            new_hidden.append(h)
        return torch.flatten(torch.cat(new_hidden), 0, 1), lstm_state

    def get_value(self, x: Tensor, lstm_state: States, done: Tensor) -> Tensor:
        hidden, _ = self.get_states(x, lstm_state, done)
        return self.critic(hidden)

    def get_action_and_value(
        self, x: Tensor, lstm_state: States, done: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, States]:
        hidden, lstm_state = self.get_states(x, lstm_state, done)
        logits = self.actor(hidden)
        choices = [Categorical(logits=part) for part in torch.split(logits, self.sizes, dim=1)]
        if action is None:
            action = torch.stack([choice.sample() for choice in choices], dim=1)
        logprob = torch.stack([c.log_prob(a) for a, c in zip(action.T, choices, strict=True)])
        entropy = torch.stack([choice.entropy() for choice in choices])
        return action, logprob.sum(0), entropy.sum(0), self.critic(hidden), lstm_state


def train(stage: Stage) -> None:
    """Train, as CleanRL's recurrent script does."""
    agent, (optimizer,) = stage.extra["agent"], stage.optimizers
    envs, args = stage.extra["envs"], stage.extra["args"]
    obs = torch.zeros(STEPS, ENVS, SIZE)
    actions = torch.zeros(STEPS, ENVS, stage.extra["action_size"])
    logprobs = torch.zeros(STEPS, ENVS)
    rewards = torch.zeros(STEPS, ENVS)
    dones = torch.zeros(STEPS, ENVS)
    values = torch.zeros(STEPS, ENVS)
    next_obs, next_done = envs.observe(), torch.zeros(ENVS)
    next_lstm_state = (torch.zeros(1, ENVS, 16), torch.zeros(1, ENVS, 16))

    for update in range(1, stage.updates + 1):
        initial_lstm_state = (next_lstm_state[0].clone(), next_lstm_state[1].clone())
        stage.begin_acting(update)
        for step in range(STEPS):
            obs[step] = next_obs
            dones[step] = next_done
            with torch.no_grad():
                action, logprob, _, value, next_lstm_state = agent.get_action_and_value(
                    next_obs, next_lstm_state, next_done
                )
                values[step] = value.flatten()
            actions[step] = action
            logprobs[step] = logprob
            next_obs, reward, done = envs.step(action)
            rewards[step] = reward
            next_done = done.float()

        with torch.no_grad():
            next_value = agent.get_value(next_obs, next_lstm_state, next_done).reshape(1, -1)
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
        b_actions = actions.reshape(STEPS * ENVS, -1)
        b_dones = dones.reshape(-1)
        b_advantages = advantages.reshape(-1)
        b_returns = returns.reshape(-1)
        stage.begin_learning(
            update,
            {
                "observations": b_obs,
                "log_probs": b_logprobs,
                "advantages": b_advantages,
                "returns": b_returns,
            },
        )

        envinds = np.arange(ENVS)
        flatinds = np.arange(STEPS * ENVS).reshape(STEPS, ENVS)
        for _epoch in range(args.update_epochs):
            np.random.shuffle(envinds)
            for start in range(0, ENVS, 2):
                mbenvinds = envinds[start : start + 2]
                mb_inds = flatinds[:, mbenvinds].ravel()
                _, newlogprob, entropy, newvalue, _ = agent.get_action_and_value(
                    b_obs[mb_inds],
                    (initial_lstm_state[0][:, mbenvinds], initial_lstm_state[1][:, mbenvinds]),
                    b_dones[mb_inds],
                    b_actions[mb_inds],
                )
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

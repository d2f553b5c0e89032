"""Faults that only rank 1 of a training has."""

import os
from typing import Any

import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.simic.agent.ppo import PPOAgent
from esper.simic.training.trainer import Trainer


def break_rank_1() -> None:
    """Break what only rank 1 computes.

    In update 2 a logit of `op` is NaN in the second minibatch, in both passes over the update. In
    update 3 a weight differs a little. In update 4 a host breaks. In update 5 a logit is Inf in the
    first pass alone.
    """
    if os.environ["RANK"] != "1":
        return
    update = 0
    passes = 0
    collect, learn = Trainer._collect, Trainer._learn
    forward, in_pass = PPOAgent._forward, PPOAgent.learn
    step = GrowthVectorEnv.step

    def collect_and_count(trainer: Trainer, *arguments: Any) -> Any:
        nonlocal update, passes
        update, passes = update + 1, 0
        return collect(trainer, *arguments)

    def learn_from_other_weights(trainer: Trainer, batch: Any) -> Any:
        if update == 3:
            with torch.no_grad():
                trainer._agent.parameters.flat[0] += 1e-3
        return learn(trainer, batch)

    def count_passes(agent: PPOAgent, *arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        return in_pass(agent, *arguments)

    def break_logits(agent: PPOAgent, batch: Any, index: int, hook: Any) -> Any:
        if update == 2 and index == 1:
            hook = BrokenLogits(torch.nan)
        if update == 5 and index == 0 and passes == 1:
            hook = BrokenLogits(torch.inf)
        return forward(agent, batch, index, hook)

    def break_host(env: GrowthVectorEnv, *arguments: Any) -> Any:
        if update == 4:
            env._cohort.population.state[0, 0] = torch.nan
        return step(env, *arguments)

    Trainer._collect = collect_and_count
    Trainer._learn = learn_from_other_weights
    PPOAgent.learn = count_passes
    PPOAgent._forward = break_logits
    GrowthVectorEnv.step = break_host


class BrokenLogits:
    """A `ForwardHook` that breaks a logit of `op`, the last head."""

    def __init__(self, value: float) -> None:
        self._value = value

    def start_pass(self) -> None:
        """Do nothing."""

    def logits(self, index: int, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        """Return the logits with a broken one."""
        broken = logits.clone()
        broken[0, 0, -6] = self._value  # WAIT, which is always legal
        return broken

    def log_probs(self, index: int, log_probs: torch.Tensor, batch: Any) -> torch.Tensor:
        """Return the log-probabilities."""
        return log_probs

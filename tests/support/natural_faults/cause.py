"""A kind of fault that occurs in nature, and constants that most kinds use."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from esper.simic.agent import loss_scale, minibatch, ppo, rollout
from esper.tamiyo import categorical
from esper.tamiyo import policy as policy_module
from natural_faults.stage import Line, Setup, Truth

FLOAT32_MAX = torch.finfo(torch.float32).max

# Every line of Esper that a truth names.
TRUNK = Line(policy_module, "trunk, state = self.lstm(self.feature_norm(")
HEADS = Line(policy_module, "logits = self.heads(trunk)")
CRITIC = Line(policy_module, "values = self.critic(trunk)")
SOFTMAX = Line(categorical, "return log_softmax(masked, dim=0)")
PICK = Line(categorical, "return log_probs.gather(")
ENTROPY_DERIVATIVE = Line(categorical, "gradient = finite.add(entropies).mul_(")
TAKE_OBSERVATIONS = Line(minibatch, "observations=self.observations.index_select(")
TAKE_STATE = Line(minibatch, "initial_state=(hidden.index_select(")
JOINT_RATIO = Line(ppo, "joint_ratio = log_ratio.exp()")
VALUE_LOSS = Line(ppo, "value_loss = 0.5 * mse_loss(")
ADD_VALUE_LOSS = Line(ppo, "policy_and_value = policy_loss.add(")
ADD_ENTROPY_LOSS = Line(ppo, "loss=policy_and_value.add(entropy_loss")
FUTURE = Line(ppo, "future = torch.where(rollout.terminated")
DELTAS = Line(ppo, "deltas = rollout.rewards + future")
RUNNING = Line(ppo, "running = deltas[step] + torch.where(")
SIBLINGS = Line(rollout, "total = known.sum(1, keepdim=True)")
SCALE_LOSS = Line(loss_scale, "return loss * self.scale")
OPTIMIZER = Line(ppo, "self.optimizer.step()")

#: What the LSTM may be made of: one kernel, or products written out under autocast.
LSTM = ("mkldnn_rnn_layer", "lstm", "mm", "addmm", "linear", "_to_copy", "add", "mul")
LINEAR = ("addmm", "linear")
AUTOCAST_LINEAR = (*LINEAR, "_to_copy")
VALUES = {"nan": math.nan, "+inf": math.inf, "-inf": -math.inf}
INFINITE = ("+inf", "-inf")
Plant = Callable[[Setup], Truth | None]


@dataclass(frozen=True)
class Cause:
    """A kind of fault.

    Attributes:
        plant: makes it and returns the truth, or None if it does not fit that setup.
        settings: settings of the run that it needs.
        precisions: in which it behaves as its truth says.
        sizes: settings that are drawn for each case.
    """

    name: str
    plant: Plant
    settings: tuple[tuple[str, Any], ...] = ()
    precisions: tuple[str, ...] = ("off", "bf16", "fp16")
    draw: Callable[[Random], dict[str, Any]] | None = None

    def settings_for(self, random: Random) -> dict[str, Any]:
        """Return the settings of a case."""
        drawn = self.draw(random) if self.draw else {}
        return {"amp": random.choice(self.precisions), **dict(self.settings), **drawn}


def index_text(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]"


def any_value(setup: Setup) -> tuple[str, float]:
    kind = setup.random.choice(tuple(VALUES))
    return kind, VALUES[kind]

"""The data of one PPO update: what a loss is computed from, and every intermediate result of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from esper.tamiyo.policy import PolicyOutput, RecurrentState


@dataclass(frozen=True)
class Minibatch:
    """Whole episodes of n hosts with their advantages and returns: all that the loss needs.

    Masks are stored in the padded form that softmax and entropy use, so that they are converted
    once per update and not once per minibatch.
    """

    observations: Tensor  # [T, n, F]
    initial_state: RecurrentState  # each [1, n, lstm_size]
    actions: Tensor  # [T, n, H], int64
    active: Tensor  # [T, n, H], bool
    illegal: Tensor  # [C, T, n, H], bool
    max_entropy: Tensor  # [T, n, H], nats: the log of the number of legal choices
    advantages: Tensor  # [T, n]
    returns: Tensor  # [T, n]
    old_log_probs: Tensor  # [T, n, H], before the first step of this update; 0 where inactive
    explained_variance: Tensor  # scalar, of the critic while acting, over all hosts of the update

    def take(self, hosts: Tensor) -> "Minibatch":
        """Return the episodes of the hosts with the given indices, `[n]`."""
        hidden, cell = self.initial_state
        return Minibatch(
            observations=self.observations.index_select(1, hosts),
            initial_state=(hidden.index_select(1, hosts), cell.index_select(1, hosts)),
            actions=self.actions.index_select(1, hosts),
            active=self.active.index_select(1, hosts),
            illegal=self.illegal.index_select(2, hosts),
            max_entropy=self.max_entropy.index_select(1, hosts),
            advantages=self.advantages.index_select(1, hosts),
            returns=self.returns.index_select(1, hosts),
            old_log_probs=self.old_log_probs.index_select(1, hosts),
            explained_variance=self.explained_variance,
        )


@dataclass(frozen=True)
class Preparation:
    """What is computed before the first minibatch.

    Attributes:
        whole: all episodes, with advantages, returns and old log-probabilities.
        parts: the minibatches of the first epoch, each with the policy's output that its old
            log-probabilities were computed from.
        hosts: indices of the hosts in each part.
    """

    whole: Minibatch
    parts: list[tuple[Minibatch, PolicyOutput]]
    hosts: Sequence[Tensor]


@dataclass(frozen=True)
class MinibatchTerms:
    """The loss of one minibatch, and everything that it is computed from."""

    output: PolicyOutput
    log_probs: Tensor  # [T, n, H], of the choices taken
    log_ratios: Tensor  # [T, n, H]; 0 where a head is inactive
    ratios: Tensor  # [T, n, H]; 1 where a head is inactive; for figures only, not in the loss
    entropies: Tensor  # [T, n, H], divided by their maximum: 0 to 1
    log_ratio: Tensor  # [T, n], of the joint policy
    joint_ratio: Tensor  # [T, n]
    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor  # minus the mean normalised entropy of the active heads
    loss: Tensor


class ForwardHook(Protocol):
    """Replaces what a forward pass computed, before the loss is computed from it."""

    def start_pass(self) -> None:
        """Prepare for a pass over all minibatches; an update may make two."""
        ...

    def logits(self, index: int, logits: Tensor, batch: Minibatch) -> Tensor:
        """Return the logits `[T, n, total]` to use in the minibatch with this index."""
        ...

    def log_probs(self, index: int, log_probs: Tensor, batch: Minibatch) -> Tensor:
        """Return the log-probabilities `[T, n, H]` to use in the minibatch with this index."""
        ...

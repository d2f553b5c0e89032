"""One minibatch of PPO: from the policy's output to the loss, with every intermediate in reach.

Schulman et al. 2017, equation 9, for a policy that is a product of categorical heads of which only
some count in each step. The joint ratio over the active heads is the exact ratio of that policy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper.simic.agent.rollout import Rollout
from esper.simic.config import TrainingConfig
from esper.tamiyo.policy import PolicyOutput, RecurrentPolicy, entropy_of, taken


@dataclass(frozen=True)
class Minibatch:
    """Whole episodes of some hosts, with what is learnt from them."""

    rollout: Rollout
    advantages: Tensor  # [T, n]
    returns: Tensor  # [T, n]
    old_log_probs: Tensor  # [T, n, H], before the first step of this update

    def take(self, hosts: Tensor) -> "Minibatch":
        """Return the episodes of some hosts only, `hosts` being their numbers `[n]`."""
        return Minibatch(
            rollout=self.rollout.take(hosts),
            advantages=self.advantages.index_select(1, hosts),
            returns=self.returns.index_select(1, hosts),
            old_log_probs=self.old_log_probs.index_select(1, hosts),
        )


@dataclass(frozen=True)
class MinibatchTerms:
    """Everything that the loss of one minibatch is made of."""

    output: PolicyOutput
    log_probs: Tensor  # [T, n, H], of the choices taken
    log_ratios: Tensor  # [T, n, H]; 0 where a head is inactive
    ratios: Tensor  # [T, n, H]; 1 where a head is inactive
    entropies: Tensor  # [T, n, H], over the logarithm of the number of legal choices, 0 to 1
    entropy: Tensor  # [T, n], of all active heads together, in nats
    log_ratio: Tensor  # [T, n], of the joint policy
    joint_ratio: Tensor  # [T, n]
    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor  # minus the mean normalised entropy of the active heads
    loss: Tensor


def counted(values: Tensor, active: Tensor) -> Tensor:
    """Return `values` with 0 where a head is inactive: chosen, because 0 * -inf would be NaN."""
    return torch.where(active, values, 0.0)


def log_probs_taken(
    policy: RecurrentPolicy, logits: Tensor, rollout: Rollout
) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of all choices `[T, n, H, C]` and of those taken `[T, n, H]`."""
    log_probs = policy.head_log_probs(logits, rollout.masks)
    return log_probs, taken(log_probs, rollout.actions)


def normalised_entropies(policy: RecurrentPolicy, entropies: Tensor, rollout: Rollout) -> Tensor:
    """Return entropies `[T, n, H]` over their maximum, the log of the number of legal choices.

    A head with a single legal choice has nothing to decide; its entropy is 0 and stays 0.
    """
    legal = policy.table(rollout.masks, False).sum(-1)  # [T, n, H]
    return entropies / legal.clamp_min(2).log()


def minibatch_terms(
    policy: RecurrentPolicy,
    batch: Minibatch,
    output: PolicyOutput,
    log_probs: Tensor,
    taken_log_probs: Tensor,
    config: TrainingConfig,
    entropy_coefficient: float,
) -> MinibatchTerms:
    """Return the loss and its parts.

    Args:
        policy: whose output it is.
        batch: the episodes.
        output: the policy's output for them.
        log_probs: of every choice, `[T, n, H, C]`.
        taken_log_probs: of the choices taken, `[T, n, H]`.
        config: the clip range and the weight of the value loss.
        entropy_coefficient: weight of the entropy bonus in this update.
    """
    active = batch.rollout.active
    log_ratios = counted(taken_log_probs, active) - counted(batch.old_log_probs, active)
    log_ratio = log_ratios.sum(-1)
    joint_ratio = log_ratio.exp()

    spread, centre = torch.std_mean(batch.advantages, correction=0)
    advantages = (batch.advantages - centre) / (spread + 1e-8)
    clipped = joint_ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
    policy_loss = -torch.min(joint_ratio * advantages, clipped * advantages).mean()
    value_loss = 0.5 * (output.values - batch.returns).square().mean()

    entropies = counted(entropy_of(log_probs), active)
    normalised = normalised_entropies(policy, entropies, batch.rollout)
    entropy_loss = -normalised.sum() / active.sum()
    return MinibatchTerms(
        output=output,
        log_probs=taken_log_probs,
        log_ratios=log_ratios,
        ratios=log_ratios.exp(),
        entropies=normalised,
        entropy=entropies.sum(-1),
        log_ratio=log_ratio,
        joint_ratio=joint_ratio,
        policy_loss=policy_loss,
        value_loss=value_loss,
        entropy_loss=entropy_loss,
        loss=policy_loss
        + config.value_coefficient * value_loss
        + entropy_coefficient * entropy_loss,
    )

"""One minibatch of PPO: from the policy's output to the loss, with every intermediate in reach.

Schulman et al. 2017, equation 9, for a policy that is a product of categorical heads of which only
some count in each step. The joint ratio over the active heads is the exact ratio of that policy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from esper.simic.config import TrainingConfig
from esper.tamiyo.categorical import Likelihoods
from esper.tamiyo.policy import PolicyOutput, RecurrentState


@dataclass(frozen=True)
class Minibatch:
    """Whole episodes of some hosts, and what is learnt from them: all that a loss needs.

    Masks are kept in the form in which softmax and entropy use them, so that it is found once in an
    update and not once in each of its minibatches.
    """

    observations: Tensor  # [T, n, F]
    initial_state: RecurrentState  # each [1, n, lstm_size]
    actions: Tensor  # [T, n, H], int64
    active: Tensor  # [T, n, H], bool
    illegal: Tensor  # [C, T, n, H], bool
    most_entropy: Tensor  # [T, n, H], nats: the log of the number of legal choices
    advantages: Tensor  # [T, n]
    returns: Tensor  # [T, n]
    old_log_probs: Tensor  # [T, n, H], before the first step of this update; 0 where inactive
    explained_variance: Tensor  # scalar, of the critic while acting, over all hosts of the update
    preparation_sum: Tensor  # scalar, float64; not finite if anything in the preparation was not

    def take(self, hosts: Tensor) -> "Minibatch":
        """Return the episodes of some hosts only, `hosts` being their numbers `[n]`."""
        hidden, cell = self.initial_state
        return Minibatch(
            observations=self.observations.index_select(1, hosts),
            initial_state=(hidden.index_select(1, hosts), cell.index_select(1, hosts)),
            actions=self.actions.index_select(1, hosts),
            active=self.active.index_select(1, hosts),
            illegal=self.illegal.index_select(2, hosts),
            most_entropy=self.most_entropy.index_select(1, hosts),
            advantages=self.advantages.index_select(1, hosts),
            returns=self.returns.index_select(1, hosts),
            old_log_probs=self.old_log_probs.index_select(1, hosts),
            explained_variance=self.explained_variance,
            preparation_sum=self.preparation_sum,
        )


@dataclass(frozen=True)
class MinibatchTerms:
    """Everything that the loss of one minibatch is made of."""

    output: PolicyOutput
    log_probs: Tensor  # [T, n, H], of the choices taken
    log_ratios: Tensor  # [T, n, H]; 0 where a head is inactive
    ratios: Tensor  # [T, n, H]; 1 where a head is inactive; to be shown, not learnt from
    entropies: Tensor  # [T, n, H], over the logarithm of the number of legal choices, 0 to 1
    log_ratio: Tensor  # [T, n], of the joint policy
    joint_ratio: Tensor  # [T, n]
    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor  # minus the mean normalised entropy of the active heads
    loss: Tensor


def derivable(terms: MinibatchTerms) -> tuple[Tensor, ...]:
    """Return the tensors whose gradients say where a derivative broke, from the loss backwards.

    `nonfinite_codes.DERIVATIVES` names them, in this order.
    """
    output = terms.output
    return (
        terms.log_ratio,
        terms.log_ratios,
        terms.entropies,
        output.logits,
        output.values,
        output.trunk,
    )


def counted(values: Tensor, active: Tensor) -> Tensor:
    """Return `values` with 0 where a head is inactive: chosen, because 0 * -inf would be NaN."""
    return torch.where(active, values, 0.0)


def most_entropy(illegal: Tensor) -> Tensor:
    """Return the entropy of even choice among the legal ones in nats, `[T, n, H]`.

    That is the log of their number. A head with a single one has nothing to decide: its entropy is
    0 and stays 0, whatever it is divided by.
    """
    return (~illegal).sum(0).clamp_min(2).log()


def normalised_entropies(entropies: Tensor, most: Tensor) -> Tensor:
    """Return entropies `[T, n, H]` over the most that they could be, from 0 to 1."""
    return entropies / most


def minibatch_terms(
    batch: Minibatch,
    output: PolicyOutput,
    taken: Likelihoods,
    config: TrainingConfig,
    entropy_coefficient: float,
) -> MinibatchTerms:
    """Return the loss and its parts.

    Args:
        batch: the episodes.
        output: the policy's output for them.
        taken: log-probabilities of the choices taken, and entropies.
        config: the clip range and the weight of the value loss.
        entropy_coefficient: weight of the entropy bonus in this update.
    """
    log_ratios = counted(taken.log_probs, batch.active) - batch.old_log_probs
    log_ratio = log_ratios.sum(-1)
    joint_ratio = log_ratio.exp()

    spread, centre = torch.std_mean(batch.advantages, correction=0)
    advantages = (batch.advantages - centre) / (spread + 1e-8)
    # min(r A, clip(r) A): a good action is limited from above only, a bad one from below only.
    good = advantages >= 0
    lowest = torch.where(good, 0.0, 1 - config.clip_range)
    highest = torch.where(good, 1 + config.clip_range, torch.inf)
    policy_loss = (joint_ratio.clamp(lowest, highest) * -advantages).mean()
    value_loss = 0.5 * mse_loss(output.values, batch.returns)

    entropies = counted(taken.entropies, batch.active)
    normalised = normalised_entropies(entropies, batch.most_entropy)
    entropy_loss = normalised.sum() / -batch.active.sum()
    policy_and_value = policy_loss.add(value_loss, alpha=config.value_coefficient)
    return MinibatchTerms(
        output=output,
        log_probs=taken.log_probs,
        log_ratios=log_ratios,
        ratios=log_ratios.detach().exp(),
        entropies=normalised,
        log_ratio=log_ratio,
        joint_ratio=joint_ratio,
        policy_loss=policy_loss,
        value_loss=value_loss,
        entropy_loss=entropy_loss,
        loss=policy_and_value.add(entropy_loss, alpha=entropy_coefficient),
    )

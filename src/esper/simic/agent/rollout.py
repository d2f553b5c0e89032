"""What a batch of episodes left behind, as `[T, N]` tensors, and the advantages drawn from it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper.tamiyo.acting import Decision
from esper.tamiyo.policy import RecurrentState


@dataclass(frozen=True)
class Rollout:
    """T steps of N hosts, in lockstep."""

    observations: Tensor  # [T, N, F], float32
    actions: Tensor  # [T, N, H], int64
    masks: Tensor  # [T, N, total], bool; the masks that counted
    active: Tensor  # [T, N, H], bool
    values: Tensor  # [T, N]
    rewards: Tensor  # [T, N]
    terminated: Tensor  # [T, N], bool; the episode ended, nothing comes after
    truncated: Tensor  # [T, N], bool; the episode was cut off, its future is worth next_values
    next_values: Tensor  # [T, N], of the observation that followed the step, final ones included
    initial_state: RecurrentState  # each [1, N, lstm_size]
    #: `[N]`, bool, on the CPU: False for a host that must not be learnt from. None: learn from all.
    learnable: Tensor | None = None

    @property
    def steps(self) -> int:
        """Return T."""
        return self.rewards.shape[0]

    @property
    def hosts(self) -> int:
        """Return N."""
        return self.rewards.shape[1]


class RolloutBuffer:
    """Collects steps until a batch of episodes is whole."""

    def __init__(self, initial_state: RecurrentState) -> None:
        self._initial_state = initial_state
        self._steps: list[tuple[Tensor, Decision, Tensor, Tensor, Tensor, Tensor]] = []

    def add(
        self,
        observations: Tensor,
        decision: Decision,
        rewards: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        final_values: Tensor,
    ) -> None:
        """Add one step of all hosts.

        Args:
            observations: what was seen, `[N, F]`.
            decision: what was done.
            rewards: what it brought, `[N]`.
            terminated: whether the episode ended by itself, `[N]`.
            truncated: whether it was cut off, `[N]`.
            final_values: the critic's value of the last observation of an episode that was cut
                off, `[N]`; read nowhere else.
        """
        self._steps.append((observations, decision, rewards, terminated, truncated, final_values))

    def rollout(self, last_values: Tensor, learnable: Tensor | None = None) -> Rollout:
        """Return all steps.

        Args:
            last_values: the critic's value of what followed them, `[N]`.
            learnable: whose episode may be learnt from, `[N]`, bool, on the CPU; all by default.
        """
        observations, decisions, rewards, terminated, truncated, final_values = zip(
            *self._steps, strict=True
        )
        values = torch.stack([decision.values for decision in decisions])
        cut_off = torch.stack(truncated)
        following = torch.cat((values[1:], last_values.unsqueeze(0)))
        return Rollout(
            observations=torch.stack(observations),
            actions=torch.stack([decision.actions for decision in decisions]),
            masks=torch.stack([decision.mask for decision in decisions]),
            active=torch.stack([decision.active for decision in decisions]),
            values=values,
            rewards=torch.stack(rewards),
            terminated=torch.stack(terminated),
            truncated=cut_off,
            next_values=torch.where(cut_off, torch.stack(final_values), following),
            initial_state=self._initial_state,
            learnable=learnable,
        )


def generalized_advantages(
    rollout: Rollout, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return the advantages and the value targets, each `[T, N]`.

    Generalised advantage estimation, Schulman et al. 2016, equation 16. A terminated episode has
    no future; one that was cut off is worth the critic's value of its last observation. Neither
    passes anything back into the episode before it.
    """
    ended = rollout.terminated | rollout.truncated
    # where, not a product: 0 * inf is NaN, and what lies behind an ending must not matter.
    future = torch.where(rollout.terminated, 0.0, gamma * rollout.next_values)
    deltas = rollout.rewards + future - rollout.values
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(deltas[0])
    for step in reversed(range(rollout.steps)):
        running = deltas[step] + torch.where(ended[step], 0.0, gamma * gae_lambda * running)
        advantages[step] = running
    return advantages, advantages + rollout.values


def over_siblings(advantages: Tensor, siblings: int) -> Tensor:
    """Return advantages `[T, N]` less the mean of those of the host's siblings in the same step.

    Hosts in a row, so many at a time, are born alike: with the same weights, and the same data in
    the same order. Half of the variance of a score is luck of birth, which no action earned and the
    critic cannot foresee; what siblings came to is a baseline that has the same luck, and does not
    depend on the host's own action (leave-one-out, as in Kool, van Hoof and Welling 2019, "Buy 4
    REINFORCE samples, get a baseline for free!"). A host without siblings keeps its advantages.
    """
    families = advantages.split(siblings, dim=1)
    return torch.cat([_less_the_others(family) for family in families], dim=1)


def _less_the_others(family: Tensor) -> Tensor:
    """Return `[T, k]` with the mean of the other columns taken off each column.

    What is not finite is left out of the means: it stays where it is and what it is, and siblings
    are not blamed for it.
    """
    finite = family.isfinite()
    known = torch.where(finite, family, 0.0)
    total = known.sum(1, keepdim=True) - known
    others = finite.sum(1, keepdim=True) - finite.long()
    return family - total / others.clamp_min(1)

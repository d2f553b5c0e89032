"""The steps of a batch of episodes, as `[T, N]` tensors: T steps of N hosts in lockstep."""

from dataclasses import dataclass

import torch
from torch import Tensor

from esper.tamiyo.acting import Taken
from esper.tamiyo.policy import RecurrentState


@dataclass(frozen=True)
class Rollout:
    """All steps of a batch of episodes."""

    observations: Tensor  # [T, N, F], float32
    actions: Tensor  # [T, N, H], int64
    masks: Tensor  # [T, N, total], bool; the masks that the actions were drawn under
    active: Tensor  # [T, N, H], bool
    values: Tensor  # [T, N]
    rewards: Tensor  # [T, N]
    terminated: Tensor  # [T, N], bool; the episode ended
    truncated: Tensor  # [T, N], bool; the episode was cut off: its future is worth next_values
    next_values: Tensor  # [T, N], of the observation that followed the step, final ones included
    initial_state: RecurrentState  # each [1, N, lstm_size]
    #: `[N]`, bool, on the CPU: False for a host to leave out of the update. None: all are used.
    learnable: Tensor | None = None

    @property
    def steps(self) -> int:
        """Return T."""
        return self.rewards.shape[0]

    @property
    def hosts(self) -> int:
        """Return N."""
        return self.rewards.shape[1]

    def learnable_hosts(self) -> Tensor:
        """Return the indices of the hosts to learn from, on the CPU."""
        if self.learnable is None:
            return torch.arange(self.hosts)
        return self.learnable.nonzero().flatten()


class RolloutBuffer:
    """Collects steps until a batch of episodes is complete.

    Args:
        initial_state: recurrent state before the first step.
    """

    def __init__(self, initial_state: RecurrentState) -> None:
        self._initial_state = initial_state
        self._steps: list[tuple[Tensor, Taken, Tensor, Tensor, Tensor, Tensor]] = []

    def add(
        self,
        observations: Tensor,
        taken: Taken,
        rewards: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        final_values: Tensor,
    ) -> None:
        """Add one step of all hosts.

        Args:
            observations: observations before the step, `[N, F]`.
            taken: the decision.
            rewards: rewards of the step, `[N]`.
            terminated: whether the episode terminated (was not truncated), `[N]`.
            truncated: whether the episode was cut off, `[N]`.
            final_values: the critic's value of the last observation of each episode that was cut
                off, `[N]`; used nowhere else.
        """
        self._steps.append((observations, taken, rewards, terminated, truncated, final_values))

    def rollout(self, last_values: Tensor, learnable: Tensor | None = None) -> Rollout:
        """Return all steps.

        Args:
            last_values: the critic's value of the observations after the last step, `[N]`.
            learnable: hosts to learn from, `[N]`, bool, on the CPU; all by default.
        """
        observations, taken, rewards, terminated, truncated, final_values = zip(
            *self._steps, strict=True
        )
        values = torch.stack([each.values for each in taken])
        cut_off = torch.stack(truncated)
        following = torch.cat((values[1:], last_values.unsqueeze(0)))
        return Rollout(
            observations=torch.stack(observations),
            actions=torch.stack([each.actions for each in taken]),
            masks=torch.stack([each.mask for each in taken]),
            active=torch.stack([each.active for each in taken]),
            values=values,
            rewards=torch.stack(rewards),
            terminated=torch.stack(terminated),
            truncated=cut_off,
            next_values=torch.where(cut_off, torch.stack(final_values), following),
            initial_state=self._initial_state,
            learnable=learnable,
        )


def minus_siblings(advantages: Tensor, siblings: int) -> Tensor:
    """Return advantages `[T, N]` minus the mean of the host's siblings in the same step.

    Each group of `siblings` consecutive hosts starts with the same weights and sees the same data
    in the same order. Half of the variance of a score comes from that start, which no action earned
    and the critic cannot foresee. The siblings' mean is a baseline with the same start that does
    not depend on the host's own actions (leave-one-out, as in Kool, van Hoof and Welling 2019, "Buy
    4 REINFORCE samples, get a baseline for free!"). A host without siblings keeps its advantages.

    Advantages that are not finite are left out of the means and stay as they are.
    """
    groups = []
    for group in advantages.split(siblings, dim=1):
        finite = group.isfinite()
        known = torch.where(finite, group, 0.0)
        total = known.sum(1, keepdim=True) - known
        others = finite.sum(1, keepdim=True) - finite.long()
        groups.append(group - total / others.clamp_min(1))
    return torch.cat(groups, dim=1)

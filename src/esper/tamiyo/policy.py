"""The recurrent policy: a feature network, an LSTM, eight masked categorical heads, and a critic.

All heads are one joint linear projection. Their distributions are computed for all of them at once,
on a padded table of choices `[C, …, H]` (H heads, C the largest number of choices of any head).
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.tamiyo.categorical import masked_log_softmax

#: Initial biases of the `op` head: waiting is as likely as growing, and undoing is rare. With equal
#: biases seeds are pruned before they can help, and PPO learns to do nothing and stays there.
OP_PRIOR = {
    Op.WAIT: 0.0,
    Op.GERMINATE: 0.0,
    Op.ADVANCE: 0.0,
    Op.SET_ALPHA_TARGET: -3.0,
    Op.PRUNE: -4.0,
    Op.FOSSILIZE: 1.0,
}

RecurrentState = tuple[Tensor, Tensor]  # hidden and cell, each [1, N, lstm_size]


class PolicyOutput(NamedTuple):
    """The network's output for T steps of N episodes, before any mask."""

    trunk: Tensor  # [T, N, lstm_size]
    logits: Tensor  # [T, N, sum of head sizes], raw
    values: Tensor  # [T, N]
    state: RecurrentState

    def detached(self) -> "PolicyOutput":
        """Return the same tensors without their graph."""
        hidden, cell = self.state
        state = hidden.detach(), cell.detach()
        return PolicyOutput(self.trunk.detach(), self.logits.detach(), self.values.detach(), state)


@dataclass(frozen=True)
class HeadLayout:
    """Names and sizes of the heads, in the order of the joint projection."""

    names: tuple[str, ...] = HEAD_NAMES
    sizes: tuple[int, ...] = HEAD_SIZES

    @property
    def total(self) -> int:
        """Return the width of the joint projection."""
        return sum(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Return the first choice of each head in the joint projection."""
        return tuple(sum(self.sizes[:head]) for head in range(len(self.sizes)))


class HeadTable(nn.Module):
    """Converts joint tensors `[…, total]` into padded tables `[C, …, H]`, and back."""

    _index: Tensor  # [C * H]; choice at each place, `total` where a head has none
    _repeated: Tensor  # [C * H]; the same, with a head's first choice where it has none
    _places: Tensor  # [total]; place of each choice in a flattened table `[C * H]`
    offsets: Tensor  # [H]; first choice of each head
    head_of_choice: Tensor  # [total]; index of the head that a choice belongs to

    def __init__(self, layout: HeadLayout) -> None:
        super().__init__()
        heads, widest = len(layout.sizes), max(layout.sizes)
        index = torch.full((widest, heads), layout.total)
        for head, (offset, size) in enumerate(zip(layout.offsets, layout.sizes, strict=True)):
            index[:size, head] = torch.arange(offset, offset + size)
        offsets = torch.tensor(layout.offsets)
        owners = torch.arange(heads).repeat_interleave(torch.tensor(layout.sizes))
        choices = torch.arange(layout.total) - offsets[owners]
        self._choices_and_heads = widest, heads
        for name, buffer in {
            "_index": index.flatten(),
            "_repeated": torch.where(index < layout.total, index, offsets).flatten(),
            "_places": choices * heads + owners,
            "offsets": offsets,
            "head_of_choice": owners,
        }.items():
            self.register_buffer(name, buffer, persistent=False)

    def joint(self, table: Tensor) -> Tensor:
        """Return a table `[C, …, H]` as a joint tensor `[…, total]`: the inverse of `forward`."""
        return table.movedim(0, -2).flatten(-2).index_select(-1, self._places)

    def forward(self, joint: Tensor, padding: float | bool) -> Tensor:
        """Return `joint` `[…, total]` as `[C, …, H]`, with `padding` where a head has no choice."""
        column = joint.new_full((*joint.shape[:-1], 1), padding)
        return self._table(torch.cat((joint, column), dim=-1), self._index)

    def unpadded(self, joint: Tensor) -> Tensor:
        """Return the same table with a head's first choice where it has none, to be masked later.

        It is faster than padding, which copies the whole tensor forward and backward.
        """
        return self._table(joint, self._repeated)

    def _table(self, joint: Tensor, index: Tensor) -> Tensor:
        table = joint.index_select(-1, index).unflatten(-1, self._choices_and_heads)
        return table.movedim(-2, 0).contiguous()


class RecurrentPolicy(nn.Module):
    """Actor and critic over sequences of observations.

    The trunk (features and LSTM) may run in lower precision under autocast. The heads and the
    critic always run in float32, because the exponential amplifies errors of logits.
    """

    def __init__(
        self,
        observation_size: int,
        *,
        layout: HeadLayout | None = None,
        feature_size: int = 64,
        lstm_size: int = 64,
    ) -> None:
        super().__init__()
        self.layout = layout or HeadLayout()
        self.features = nn.Linear(observation_size, feature_size)
        self.feature_norm = nn.LayerNorm(feature_size)
        self.lstm = nn.LSTM(feature_size, lstm_size)
        self.heads = nn.Linear(lstm_size, self.layout.total)
        self.critic = nn.Linear(lstm_size, 1)
        self.table = HeadTable(self.layout)
        self._initialise()

    def _initialise(self) -> None:
        """Orthogonal weights, small in the heads, as Andrychowicz et al. (2021) found to help."""
        nn.init.orthogonal_(self.features.weight, 2**0.5)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
        nn.init.orthogonal_(self.heads.weight, 0.01)
        nn.init.orthogonal_(self.critic.weight, 1.0)
        for linear in (self.features, self.heads, self.critic):
            nn.init.zeros_(linear.bias)
        if self.layout.names[-1] == "op" and self.layout.sizes[-1] == len(Op):
            with torch.no_grad():
                self.heads.bias[-len(Op) :] = torch.tensor([OP_PRIOR[op] for op in Op])

    def initial_state(self, episodes: int) -> RecurrentState:
        """Return the state before the first step of each of N episodes."""
        zeros = self.critic.weight.new_zeros(1, episodes, self.lstm.hidden_size)
        return zeros, zeros

    def forward(self, observations: Tensor, state: RecurrentState) -> PolicyOutput:
        """Run T steps of N episodes.

        Args:
            observations: observations of each step and episode, `[T, N, F]`, float32.
            state: recurrent state before the first of these steps.
        """
        trunk, state = self.lstm(self.feature_norm(self.features(observations)).tanh(), state)
        with _no_autocast(trunk.device.type):
            trunk = trunk.float()  # [T, N, lstm_size]
            logits = self.heads(trunk)  # [T, N, total]
            values = self.critic(trunk).squeeze(-1)  # [T, N]
        return PolicyOutput(trunk, logits, values, state)

    def head_log_probs(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the log-probability of every choice of every head.

        Args:
            logits: raw logits, `[…, total]`.
            mask: True where a choice is legal, `[…, total]`; at least one in each head.

        Returns:
            `[C, …, H]`; -inf where a choice is illegal or does not exist.
        """
        return masked_log_softmax(self.table.unpadded(logits), ~self.table(mask, False))


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast; a null context, which is faster, if it is off anyway."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)

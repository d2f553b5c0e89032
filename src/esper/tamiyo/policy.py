"""The recurrent policy: a feature network, an LSTM, eight masked categorical heads, and a critic.

All heads are one joint linear projection; everything about their distributions is computed for all
of them at once on a padded table of choices `[…, H, C]` (H heads, C the most choices of any head).
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.tamiyo.categorical import masked_log_softmax

#: Where the `op` head starts: waiting is as likely as growing, and undoing is rare. A uniform start
#: prunes seeds before they can help, so that PPO first learns to do nothing and stays there.
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
    """What the network says of T steps of N episodes, before any mask."""

    trunk: Tensor  # [T, N, lstm_size]
    logits: Tensor  # [T, N, sum of head sizes], raw
    values: Tensor  # [T, N]
    state: RecurrentState


@dataclass(frozen=True)
class HeadLayout:
    """How the heads lie side by side in the joint projection."""

    names: tuple[str, ...] = HEAD_NAMES
    sizes: tuple[int, ...] = HEAD_SIZES

    @property
    def total(self) -> int:
        """Return the width of the joint projection."""
        return sum(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Return where each head's choices begin in the joint projection."""
        return tuple(sum(self.sizes[:head]) for head in range(len(self.sizes)))


class HeadTable(nn.Module):
    """Moves what stands side by side, `[…, total]`, into a padded table `[C, …, H]`."""

    _index: Tensor  # [C * H]; which choice stands where, `total` where a head has none
    _repeated: Tensor  # [C * H]; the same with a head's first choice where it has none
    _places: Tensor  # [total]; where each choice lies in a flattened table `[C * H]`
    offsets: Tensor  # [H]; where each head's choices begin
    head_of_choice: Tensor  # [total]; the number of the head that a choice belongs to

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
        """Return a table `[C, …, H]` side by side `[…, total]`: `forward` undone."""
        return table.movedim(0, -2).flatten(-2).index_select(-1, self._places)

    def forward(self, joint: Tensor, padding: float | bool) -> Tensor:
        """Return `joint` `[…, total]` as `[C, …, H]`, with `padding` where a head has no choice."""
        column = joint.new_full((*joint.shape[:-1], 1), padding)
        return self._table(torch.cat((joint, column), dim=-1), self._index)

    def unpadded(self, joint: Tensor) -> Tensor:
        """Return the same table with a head's first choice where it has none, for a mask to fill.

        Padding costs copies of the whole, forward and backward.
        """
        return self._table(joint, self._repeated)

    def _table(self, joint: Tensor, index: Tensor) -> Tensor:
        table = joint.index_select(-1, index).unflatten(-1, self._choices_and_heads)
        return table.movedim(-2, 0).contiguous()


class RecurrentPolicy(nn.Module):
    """Actor and critic over sequences of observations.

    The trunk (features and LSTM) may run in a lower precision under autocast; the heads and the
    critic always run in float32, because a logit's error is multiplied by the exponential.
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
            observations: `[T, N, F]`, float32.
            state: the state before the first of these steps.
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
            logits: raw, `[…, total]`.
            mask: True where a choice is legal, `[…, total]`; each head has at least one.

        Returns:
            `[C, …, H]`; -inf where a choice is illegal or does not exist.
        """
        return masked_log_softmax(self.table.unpadded(logits), ~self.table(mask, False))


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast; where there is none anyway, one that costs nothing."""
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)

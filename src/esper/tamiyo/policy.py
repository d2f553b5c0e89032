"""The recurrent policy: a feature network, an LSTM, eight masked categorical heads, and a critic.

All heads are one joint linear projection; everything about their distributions is computed for all
of them at once on a padded table of choices `[…, H, C]` (H heads, C the most choices of any head).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op

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
    """Moves what stands side by side `[…, total]` into a padded table `[…, H, C]`."""

    _index: Tensor
    _repeated: Tensor
    _places: Tensor  # [total]; where each choice lies in the flattened table
    offsets: Tensor  # [H]; where each head's choices begin
    head_of_choice: Tensor  # [total]; the number of the head that a choice belongs to

    def __init__(self, layout: HeadLayout) -> None:
        super().__init__()
        widest = max(layout.sizes)
        index = torch.full((len(layout.sizes), widest), layout.total)
        for head, (offset, size) in enumerate(zip(layout.offsets, layout.sizes, strict=True)):
            index[head, :size] = torch.arange(offset, offset + size)
        self.shape = tuple(index.shape)
        sizes = torch.tensor(layout.sizes)
        owners = torch.arange(len(sizes)).repeat_interleave(sizes)
        self.register_buffer("_index", index.flatten(), persistent=False)
        self.register_buffer("offsets", torch.tensor(layout.offsets), persistent=False)
        self.register_buffer("head_of_choice", owners, persistent=False)
        places = (index.flatten() < layout.total).nonzero().squeeze(-1)
        self.register_buffer("_places", places, persistent=False)
        first = torch.tensor(layout.offsets).unsqueeze(1)
        repeated = torch.where(index < layout.total, index, first)
        self.register_buffer("_repeated", repeated.flatten(), persistent=False)

    def joint(self, table: Tensor) -> Tensor:
        """Return a table `[…, H, C]` side by side `[…, total]`: `forward` undone."""
        return table.flatten(-2).index_select(-1, self._places)

    def forward(self, joint: Tensor, padding: float | bool) -> Tensor:
        """Return `joint` `[…, total]` as `[…, H, C]`, with `padding` where a head has no choice."""
        column = joint.new_full((*joint.shape[:-1], 1), padding)
        padded = torch.cat((joint, column), dim=-1).index_select(-1, self._index)
        return padded.unflatten(-1, self.shape)

    def unpadded(self, joint: Tensor) -> Tensor:
        """Return the same table with a head's first choice where it has none, for a mask to fill.

        Padding costs copies of the whole, forward and backward.
        """
        return joint.index_select(-1, self._repeated).unflatten(-1, self.shape)


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
        with torch.autocast(trunk.device.type, enabled=False):
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
            `[…, H, C]`; -inf where a choice is illegal or does not exist.
        """
        masked = self.table.unpadded(logits).masked_fill(~self.table(mask, False), -torch.inf)
        return log_softmax(masked, dim=-1)


def entropy_of(log_probs: Tensor) -> Tensor:
    """Return the entropy in nats of each head, `[…, H]`, from `head_log_probs` `[…, H, C]`."""
    # Zeroing log p first, and only where it is -inf by the mask, keeps the gradient finite: with
    # where(mask, p * log p, 0) the product 0 * -inf still reaches the backward pass as NaN.
    illegal = log_probs.isneginf()
    return -(log_probs.exp() * log_probs.masked_fill(illegal, 0.0)).sum(-1)


def taken(log_probs: Tensor, actions: Tensor) -> Tensor:
    """Return the log-probability of the choices taken, `[…, H]`, from `[…, H, C]`."""
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

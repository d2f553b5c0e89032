"""Acting: draw one legal decision per host from the policy.

Which slots are legal depends on the op, so the op is drawn first, and then the slot from those that
this op may act on. The joint probability is the product over heads, under the mask that the choices
were drawn with.

A head whose probabilities are NaN has no distribution to draw from. It falls back to a legal
choice: `op` to WAIT, every other head to a uniform draw. Its log-probabilities stay NaN, and the
draws of all other heads and hosts do not change.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, active_head_table
from esper.tamiyo.categorical import masked_log_softmax, taken
from esper.tamiyo.policy import RecurrentPolicy, RecurrentState

OP_HEAD = HEAD_NAMES.index("op")
SLOT_HEAD = HEAD_NAMES.index("slot")
_FIRST_SLOT = sum(HEAD_SIZES[:SLOT_HEAD])
_ACTIVE = torch.tensor(active_head_table())  # [ops, H]


class HostShare(NamedTuple):
    """Consecutive hosts of a batch whose other hosts another process acts on."""

    first: int  # number of the first of them
    total: int  # hosts in the batch


class Taken(NamedTuple):
    """What an update needs of one decision for each of N hosts."""

    actions: Tensor  # [N, H], int64
    mask: Tensor  # [N, total], bool; the mask that they were drawn with
    active: Tensor  # [N, H], bool; the heads whose choice had an effect
    values: Tensor  # [N]


class Decision(NamedTuple):
    """One decision for each of N hosts."""

    actions: Tensor  # [N, H], int64
    mask: Tensor  # [N, total], bool; the mask that they were drawn with
    active: Tensor  # [N, H], bool; the heads whose choice had an effect
    log_probs: Tensor  # [N, H], of the choices taken
    choice_log_probs: Tensor  # [N, total], of every choice of every head, under `mask`
    values: Tensor  # [N]
    state: RecurrentState  # after this step
    logits: Tensor  # [N, total], raw
    trunk: Tensor  # [N, lstm_size]

    @property
    def taken(self) -> Taken:
        """What an update needs of the decision."""
        return Taken(self.actions, self.mask, self.active, self.values)


def act(
    policy: RecurrentPolicy,
    observations: Tensor,
    mask: Tensor,
    slot_mask_by_op: Tensor,
    state: RecurrentState,
    generator: torch.Generator,
    *,
    decisive: bool = False,
    share: HostShare | None = None,
) -> Decision:
    """Draw one decision per host.

    Args:
        policy: the policy.
        observations: observations of each host, `[N, F]`, float32.
        mask: choices that are legal under some op, `[N, total]`, bool.
        slot_mask_by_op: slots that each op may act on, `[N, ops, slots]`, bool.
        state: recurrent state before this step.
        generator: random generator, on the device of the policy.
        decisive: draw only the op, and take the most likely choice of every other head. For using a
            trained policy without exploration. The op is still drawn, because the most likely op
            is often to wait at every single step, even if growing is likely at some step.
        share: the place of these hosts among all that the generator draws for; None if these are
            all of them. A host's draws are the same wherever the others are.
    """
    output = policy(observations.unsqueeze(0), state)
    logits = output.logits.squeeze(0)  # [N, total]
    choices = policy.table.unpadded(logits)  # [C, N, H]
    illegal = ~policy.table(mask, False)  # [C, N, H]
    op = _draw_op(masked_log_softmax(choices, illegal), illegal, generator, share)  # [N]
    mask = mask_for_op(mask, slot_mask_by_op, op)
    illegal = ~policy.table(mask, False)
    log_probs = masked_log_softmax(choices, illegal)  # [C, N, H]
    actions = (
        most_likely(log_probs, illegal)
        if decisive
        else sample(log_probs, illegal, generator, share)
    )
    actions[:, OP_HEAD] = op
    return Decision(
        actions=actions,
        mask=mask,
        active=active_heads(op),
        log_probs=taken(log_probs, actions),
        choice_log_probs=policy.table.joint(log_probs),
        values=output.values.squeeze(0),
        state=output.state,
        logits=logits,
        trunk=output.trunk.squeeze(0),
    )


def active_heads(op: Tensor) -> Tensor:
    """Return the heads whose choice has an effect, `[…, H]`, for the ops taken `[…]`."""
    return _ACTIVE.to(op.device)[op]


def _draw_op(
    log_probs: Tensor, illegal: Tensor, generator: torch.Generator, share: HostShare | None
) -> Tensor:
    """Return an op per host, `[N]`; where the head is NaN, the first legal one (WAIT)."""
    drawn = sample(log_probs, illegal, generator, share)[:, OP_HEAD]
    broken = log_probs[..., OP_HEAD].isnan().any(0)
    return torch.where(broken, illegal[..., OP_HEAD].byte().argmin(0), drawn)


def sample(
    log_probs: Tensor,
    illegal: Tensor,
    generator: torch.Generator,
    share: HostShare | None = None,
) -> Tensor:
    """Return one choice per head, `[…, H]` (Gumbel-max trick).

    A head whose log-probabilities are NaN draws uniformly from its legal choices. (With NaN,
    `torch.multinomial` would raise before the fault is reported, and argmax would return the NaN.)

    Args:
        log_probs: log-probabilities of all choices, `[C, …, H]`.
        illegal: True where a choice is illegal or does not exist, `[C, …, H]`.
        generator: random generator; the number of draws does not depend on the values.
        share: the place of these hosts, the last axis but one, among all that it draws for.
    """
    shape = list(log_probs.shape)
    first, last = 0, shape[-2]
    if share is not None:
        first, last = share.first, share.first + shape[-2]
        shape[-2] = share.total
    uniform = torch.rand(shape, generator=generator, device=log_probs.device)[..., first:last, :]
    gumbel = -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()
    scores = log_probs + gumbel
    return torch.where(scores.isnan(), gumbel, scores).masked_fill_(illegal, -torch.inf).argmax(0)


def most_likely(log_probs: Tensor, illegal: Tensor) -> Tensor:
    """Return the most likely choice per head, `[…, H]`; the first legal one where all are NaN."""
    return (
        log_probs.nan_to_num(nan=0.0, neginf=-torch.inf).masked_fill_(illegal, -torch.inf).argmax(0)
    )


def mask_for_op(mask: Tensor, slot_mask_by_op: Tensor, op: Tensor) -> Tensor:
    """Return the mask with slots limited to those that the op taken may act on.

    Args:
        mask: legal choices of all heads, `[N, total]`, bool.
        slot_mask_by_op: slots that each op may act on, `[N, ops, slots]`, bool.
        op: the op taken, `[N]`.
    """
    chosen = slot_mask_by_op[torch.arange(len(op), device=op.device), op]  # [N, slots]
    result = mask.clone()
    result[:, _FIRST_SLOT : _FIRST_SLOT + chosen.shape[-1]] = chosen
    return result

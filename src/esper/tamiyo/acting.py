"""Acting: one decision per host, drawn from the policy, never an illegal one.

Which slots may be chosen depends on the op, so the op is drawn first and the slot among those that
this op may act on. The joint probability stays the product over heads, under the mask that counted.

A head whose probabilities are NaN has no distribution to draw from. It falls back to a legal
choice: `op` to WAIT, every other head to a uniform draw. Its log-probabilities stay NaN, and all
other heads and hosts draw what they would have drawn without it.
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


class Decision(NamedTuple):
    """One decision for each of N hosts."""

    actions: Tensor  # [N, H], int64
    mask: Tensor  # [N, total], bool; the mask under which they were drawn
    active: Tensor  # [N, H], bool; the heads whose choice mattered
    log_probs: Tensor  # [N, H], of the choices taken
    choice_log_probs: Tensor  # [N, total], of every choice of every head, under `mask`
    values: Tensor  # [N]
    state: RecurrentState  # after this step
    logits: Tensor  # [N, total], raw
    trunk: Tensor  # [N, lstm_size]


def act(
    policy: RecurrentPolicy,
    observations: Tensor,
    mask: Tensor,
    slot_mask_by_op: Tensor,
    state: RecurrentState,
    generator: torch.Generator,
    *,
    decisive: bool = False,
) -> Decision:
    """Draw one decision per host.

    Args:
        policy: whose decision it is.
        observations: `[N, F]`, float32.
        mask: choices legal under some op, `[N, total]`.
        slot_mask_by_op: the slots that each op may act on, `[N, ops, slots]`.
        state: the recurrent state before this step.
        generator: source of all randomness, on the device of the policy.
        decisive: draw the op alone, and take the likeliest choice of every other head: for a policy
            that is used and no longer explores. (The likeliest op at every step would often be to
            wait, step after step, though growing is likely in some step.)
    """
    output = policy(observations.unsqueeze(0), state)
    logits = output.logits.squeeze(0)  # [N, total]
    choices = policy.table.unpadded(logits)  # [C, N, H]
    illegal = ~policy.table(mask, False)  # [C, N, H]
    op = _draw_op(masked_log_softmax(choices, illegal), illegal, generator)  # [N]
    mask = mask_for_op(mask, slot_mask_by_op, op)
    illegal = ~policy.table(mask, False)
    log_probs = masked_log_softmax(choices, illegal)  # [C, N, H]
    actions = likeliest(log_probs, illegal) if decisive else sample(log_probs, illegal, generator)
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
    """Return the heads whose choice mattered, `[…, H]`, for the ops taken `[…]`."""
    return _ACTIVE.to(op.device)[op]


def _draw_op(log_probs: Tensor, illegal: Tensor, generator: torch.Generator) -> Tensor:
    """Return an op per host, `[N]`: WAIT where the head is broken, or the first that is legal."""
    drawn = sample(log_probs, illegal, generator)[:, OP_HEAD]
    broken = log_probs[..., OP_HEAD].isnan().any(0)
    return torch.where(broken, illegal[..., OP_HEAD].byte().argmin(0), drawn)


def sample(log_probs: Tensor, illegal: Tensor, generator: torch.Generator) -> Tensor:
    """Return one choice per head, `[…, H]` (Gumbel-max trick).

    A head whose log-probabilities are NaN draws uniformly among its legal choices: a broken head
    must not stop training before it is reported, as `torch.multinomial` would, and its action must
    not be taken from NaN, as a plain argmax would.

    Args:
        log_probs: `[C, …, H]`.
        illegal: True where a choice is illegal or does not exist, `[C, …, H]`.
        generator: source of the draws; their number does not depend on the values.
    """
    uniform = torch.rand(log_probs.shape, generator=generator, device=log_probs.device)
    gumbel = -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()
    scores = log_probs + gumbel
    return torch.where(scores.isnan(), gumbel, scores).masked_fill_(illegal, -torch.inf).argmax(0)


def likeliest(log_probs: Tensor, illegal: Tensor) -> Tensor:
    """Return the likeliest choice per head, `[…, H]`; the first legal one where all are NaN."""
    return (
        log_probs.nan_to_num(nan=0.0, neginf=-torch.inf).masked_fill_(illegal, -torch.inf).argmax(0)
    )


def mask_for_op(mask: Tensor, slot_mask_by_op: Tensor, op: Tensor) -> Tensor:
    """Return the mask that counted: slots limited to those that the op taken may act on.

    Args:
        mask: legal choices of all heads, `[N, total]`.
        slot_mask_by_op: `[N, ops, slots]`.
        op: the op taken, `[N]`.
    """
    chosen = slot_mask_by_op[torch.arange(len(op), device=op.device), op]  # [N, slots]
    result = mask.clone()
    result[:, _FIRST_SLOT : _FIRST_SLOT + chosen.shape[-1]] = chosen
    return result

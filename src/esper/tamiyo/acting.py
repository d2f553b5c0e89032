"""Acting: one decision per host, drawn from the policy, never an illegal one.

Which slots may be chosen depends on the op, so the op is drawn first and the slot among those that
this op may act on. The joint probability stays the product over heads, under the mask that counted.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, active_head_table
from esper.tamiyo.categorical import taken
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
    state: RecurrentState


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
    op = sample(policy.head_log_probs(logits, mask), generator)[:, OP_HEAD]  # [N]
    mask = mask_for_op(mask, slot_mask_by_op, op)
    log_probs = policy.head_log_probs(logits, mask)  # [C, N, H]
    actions = log_probs.argmax(0) if decisive else sample(log_probs, generator)
    actions[:, OP_HEAD] = op
    return Decision(
        actions=actions,
        mask=mask,
        active=active_heads(op),
        log_probs=taken(log_probs, actions),
        choice_log_probs=policy.table.joint(log_probs),
        values=output.values.squeeze(0),
        state=output.state,
    )


def active_heads(op: Tensor) -> Tensor:
    """Return the heads whose choice mattered, `[…, H]`, for the ops taken `[…]`."""
    return _ACTIVE.to(op.device)[op]


def sample(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Return one choice per head, `[…, H]`, drawn from `[C, …, H]` (Gumbel-max trick).

    A non-finite probability must not stop training before the update has seen and reported it, so
    NaN wins the argmax of its head instead of raising, as `torch.multinomial` would.
    """
    uniform = torch.rand(log_probs.shape, generator=generator, device=log_probs.device)
    gumbel = -(-uniform.clamp_min(torch.finfo(uniform.dtype).tiny).log()).log()
    return (log_probs + gumbel).argmax(0)


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

"""Masks of legal choices, derived from the table of transitions."""

import numpy as np

from esper.growth.hosts.seeds import EVENT_OF_OP, TRANSITIONS, Seeds
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op, Stage

# [ops, stages]: whether an op is legal on a seed in a stage; WAIT always is
_LEGAL = np.array(
    [[op is Op.WAIT or (stage, EVENT_OF_OP[op]) in TRANSITIONS for stage in Stage] for op in Op]
)


def legal_slots(seeds: Seeds) -> np.ndarray:
    """Return the slots on which each op is legal now; WAIT is on all. `[N, ops, S]`"""
    return _LEGAL[:, seeds.stage].swapaxes(0, 1)


def action_mask(legal: np.ndarray) -> np.ndarray:
    """Return which choices of each head are legal under at least one op. `[N, sum(HEAD_SIZES)]`

    Heads follow each other in `HEAD_NAMES` order. An op is legal if some slot allows it; a slot if
    some op other than WAIT may be used on it, or, where there is none, every slot (a head must have
    a choice). All other choices are always legal.

    Args:
        legal: from `legal_slots`. `[N, ops, S]`
    """
    hosts = len(legal)
    slots = np.asarray(np.delete(legal, Op.WAIT, axis=1).any(axis=1))  # [N, S]
    slots |= ~slots.any(axis=1, keepdims=True)
    parts = {"slot": slots, "op": legal.any(axis=2)}
    return np.concatenate(
        [
            parts.get(head, np.ones((hosts, size), dtype=bool))
            for head, size in zip(HEAD_NAMES, HEAD_SIZES, strict=True)
        ],
        axis=1,
    )

"""Masks: what each head may choose, before and after a host has grown."""

import numpy as np

from esper.growth.environment.masks import action_mask, legal_slots
from esper.growth.hosts import seeds as life
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op

HEADS = dict(
    zip(
        HEAD_NAMES,
        np.split(np.arange(sum(HEAD_SIZES)), np.cumsum(HEAD_SIZES)[:-1]),
        strict=True,
    )
)


def test_a_newborn_host_can_wait_or_germinate_anywhere() -> None:
    legal = legal_slots(life.empty_seeds(2))
    mask = action_mask(legal)
    assert legal.shape == (2, 6, 3)
    assert mask.shape == (2, sum(HEAD_SIZES))
    assert mask[0, HEADS["op"]].tolist() == [op in (Op.WAIT, Op.GERMINATE) for op in Op]
    assert mask[0, HEADS["slot"]].all()


def test_a_slot_is_legal_if_some_op_may_be_used_on_it() -> None:
    seeds = life.empty_seeds(1)
    life.germinate(seeds, 0, 1, blueprint=0, style=0, tempo=1, target=1.0)
    life.begin_slice(seeds)
    life.advance(seeds, 0, 1)
    life.begin_slice(seeds)
    life.end_slice(seeds)
    life.fossilize(seeds, 0, 1)
    legal = legal_slots(seeds)
    assert legal[0, Op.GERMINATE].tolist() == [True, False, True]
    assert legal[0, Op.WAIT].all()
    assert action_mask(legal)[0, HEADS["slot"]].tolist() == [True, False, True]


def test_where_nothing_can_be_done_every_slot_is_legal_and_only_waiting_is() -> None:
    seeds = life.empty_seeds(1)
    for slot in range(3):
        life.germinate(seeds, 0, slot, blueprint=0, style=0, tempo=1, target=1.0)
        life.prune(seeds, 0, slot, length=0, curve=0)
    mask = action_mask(legal_slots(seeds))
    assert mask[0, HEADS["op"]].tolist() == [op is Op.WAIT for op in Op]
    assert mask[0, HEADS["slot"]].all()


def test_all_other_heads_are_free() -> None:
    mask = action_mask(legal_slots(life.empty_seeds(3)))
    for head in set(HEAD_NAMES) - {"op", "slot"}:
        assert mask[:, HEADS[head]].all()

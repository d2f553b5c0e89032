"""The heads: their order, their sizes, and which of them each op makes count."""

from esper.leyline.heads import (
    ACTIVE_HEADS,
    HEAD_CHOICES,
    HEAD_NAMES,
    HEAD_SIZES,
    Op,
    active_head_table,
)


def test_the_heads_stand_in_the_order_of_an_action():
    assert HEAD_NAMES == (
        "slot",
        "blueprint",
        "style",
        "tempo",
        "alpha_target",
        "alpha_speed",
        "alpha_curve",
        "op",
    )
    assert tuple(HEAD_CHOICES) == HEAD_NAMES


def test_a_head_has_a_name_for_each_choice():
    assert tuple(len(HEAD_CHOICES[head]) for head in HEAD_NAMES) == HEAD_SIZES
    assert HEAD_SIZES[-1] == len(Op)


def test_the_op_head_counts_whatever_the_op():
    assert all("op" in ACTIVE_HEADS[op] for op in Op)
    assert ACTIVE_HEADS[Op.WAIT] == {"op"}


def test_the_table_says_what_the_sets_say():
    table = active_head_table()
    for op in Op:
        row = {head for head, active in zip(HEAD_NAMES, table[op], strict=True) if active}
        assert row == ACTIVE_HEADS[op]

"""Acting: legal combinations only, and the mask that counted."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.heads import ACTIVE_HEADS, HEAD_NAMES, HEAD_SIZES, Op
from esper.tamiyo.acting import act, active_heads
from esper.tamiyo.categorical import taken
from esper.tamiyo.policy import RecurrentPolicy

HOSTS = 16


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_slot_drawn_is_one_that_the_op_may_act_on(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    policy = RecurrentPolicy(4, feature_size=8, lstm_size=8)
    slots = torch.rand(HOSTS, len(Op), HEAD_SIZES[0], generator=random) > 0.6
    slots[:, Op.WAIT] = True
    mask = torch.ones(HOSTS, sum(HEAD_SIZES), dtype=torch.bool)
    mask[:, -len(Op) :] = slots.any(-1)  # an op with no slot to act on is illegal
    observations = torch.randn(HOSTS, 4, generator=random)

    with torch.no_grad():
        decision = act(policy, observations, mask, slots, policy.initial_state(HOSTS), random)

    op, slot = decision.actions[:, -1], decision.actions[:, 0]
    assert slots[torch.arange(HOSTS), op, slot].all()
    assert decision.mask[:, : HEAD_SIZES[0]].equal(slots[torch.arange(HOSTS), op])
    assert decision.mask[:, HEAD_SIZES[0] :].equal(mask[:, HEAD_SIZES[0] :])
    logits = policy(observations.unsqueeze(0), policy.initial_state(HOSTS)).logits.squeeze(0)
    again = taken(policy.head_log_probs(logits, decision.mask), decision.actions)
    torch.testing.assert_close(decision.log_probs, again)
    all_of_them = taken(policy.table(decision.choice_log_probs, 0.0), decision.actions)
    assert all_of_them.equal(decision.log_probs)
    assert decision.log_probs.isfinite().all()


def test_a_decisive_policy_draws_the_op_and_takes_the_likeliest_of_all_else() -> None:
    random = torch.Generator().manual_seed(5)
    policy = RecurrentPolicy(4, feature_size=8, lstm_size=8)
    hosts = 64
    mask = torch.ones(hosts, sum(HEAD_SIZES), dtype=torch.bool)
    slots = torch.ones(hosts, len(Op), HEAD_SIZES[0], dtype=torch.bool)
    slots[:, Op.PRUNE, 0] = False
    observations = torch.randn(1, 4, generator=random).expand(hosts, 4)

    with torch.no_grad():
        decision = act(
            policy, observations, mask, slots, policy.initial_state(hosts), random, decisive=True
        )

    ops = decision.actions[:, -1]
    assert len(ops.unique()) > 2
    for head, name in enumerate(HEAD_NAMES[:-1]):
        parts = policy.table(decision.choice_log_probs, -torch.inf)[..., head]  # [C, N]
        assert decision.actions[:, head].equal(parts.argmax(0)), name


def test_active_heads_are_those_of_the_contract() -> None:
    table = active_heads(torch.tensor(list(Op)))
    for op in Op:
        names = {name for name, on in zip(HEAD_NAMES, table[op].tolist(), strict=True) if on}
        assert names == set(ACTIVE_HEADS[op])

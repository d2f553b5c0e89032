"""The policy's distributions against one softmax per head, done slowly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical

from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.tamiyo.acting import sample
from esper.tamiyo.categorical import likelihoods
from esper.tamiyo.policy import OP_PRIOR, HeadLayout, RecurrentPolicy

TOTAL = sum(HEAD_SIZES)


@pytest.fixture
def policy() -> RecurrentPolicy:
    torch.manual_seed(0)
    return RecurrentPolicy(5, feature_size=8, lstm_size=8)


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    """Masks of one row in which every head has a legal choice."""
    columns = [
        draw(st.lists(st.booleans(), min_size=size, max_size=size).filter(any))
        for size in HEAD_SIZES
    ]
    return torch.tensor([choice for column in columns for choice in column])


def heads_of(joint: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return joint.split(HEAD_SIZES, dim=-1)


@given(mask=masks(), seed=st.integers(0, 1000))
def test_padded_log_probs_equal_one_softmax_per_head(mask: torch.Tensor, seed: int) -> None:
    policy = RecurrentPolicy(5, feature_size=8, lstm_size=8)
    logits = 5 * torch.randn(TOTAL, generator=torch.Generator().manual_seed(seed))

    table = policy.head_log_probs(logits, mask)  # [C, H]
    no_actions = torch.zeros(len(HEAD_SIZES), dtype=torch.int64)
    illegal = ~policy.table(mask, False)
    entropies = likelihoods(policy.table.unpadded(logits), illegal, no_actions).entropies

    for head, (raw, legal) in enumerate(zip(heads_of(logits), heads_of(mask), strict=True)):
        unpadded = torch.log_softmax(raw[legal], -1)
        torch.testing.assert_close(table[: len(raw), head][legal], unpadded)
        assert table[: len(raw), head][~legal].isneginf().all()
        assert table[len(raw) :, head].isneginf().all()
        expected = Categorical(logits=raw[legal]).entropy()
        torch.testing.assert_close(entropies[head], expected, atol=1e-6, rtol=1e-5)


@given(mask=masks())
def test_entropy_and_log_prob_have_finite_gradients_under_any_mask(mask: torch.Tensor) -> None:
    policy = RecurrentPolicy(5, feature_size=8, lstm_size=8)
    logits = torch.linspace(-3, 3, TOTAL, requires_grad=True)
    legal_actions = torch.stack([legal.float().argmax() for legal in heads_of(mask)])
    illegal = ~policy.table(mask, False)
    both = likelihoods(policy.table.unpadded(logits), illegal, legal_actions)

    (both.entropies.sum() + both.log_probs.sum()).backward()

    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[~mask] == 0).all()


@given(mask=masks(), seed=st.integers(0, 1000))
def test_a_sampled_choice_is_always_legal(mask: torch.Tensor, seed: int) -> None:
    policy = RecurrentPolicy(5, feature_size=8, lstm_size=8)
    generator = torch.Generator().manual_seed(seed)
    table = policy.head_log_probs(torch.zeros(20, TOTAL), mask.expand(20, -1))

    choices = sample(table, ~policy.table(mask.expand(20, -1), False), generator)

    for head, legal in enumerate(heads_of(mask)):
        assert legal[choices[:, head]].all()


def test_sampling_follows_the_probabilities() -> None:
    log_probs = torch.tensor([[0.1, 0.2, 0.7]]).log().expand(20_000, 1, 3).movedim(-1, 0)
    legal = torch.zeros_like(log_probs, dtype=torch.bool)
    choices = sample(log_probs, legal, torch.Generator().manual_seed(0))
    shares = torch.bincount(choices.flatten(), minlength=3) / len(choices)
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.7]), atol=0.01, rtol=0)


def test_sampling_from_nan_is_uniform_among_the_legal_choices() -> None:
    illegal = torch.tensor([True, False, True, False, False])
    illegal = illegal.view(5, 1, 1).expand(5, 20_000, 1)
    choices = sample(torch.full((5, 20_000, 1), torch.nan), illegal, torch.Generator())
    shares = torch.bincount(choices.flatten(), minlength=5) / len(choices)
    expected = torch.tensor([0, 1, 0, 1, 1]) / 3
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)


def test_a_fresh_policy_starts_from_the_op_prior(policy: RecurrentPolicy) -> None:
    observations = torch.randn(1, 3, 5)
    logits = policy(observations, policy.initial_state(3)).logits
    op_logits = logits[..., -len(Op) :].mean((0, 1))
    expected = torch.tensor([OP_PRIOR[op] for op in Op])
    torch.testing.assert_close(op_logits, expected, atol=0.05, rtol=0)


def test_a_sequence_at_once_equals_step_by_step(policy: RecurrentPolicy) -> None:
    observations = torch.randn(7, 3, 5)
    at_once = policy(observations, policy.initial_state(3))
    state = policy.initial_state(3)
    for step in range(7):
        one = policy(observations[step : step + 1], state)
        state = one.state
        torch.testing.assert_close(one.logits[0], at_once.logits[step])
        torch.testing.assert_close(one.values[0], at_once.values[step])


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_heads_and_critic_stay_in_float32_under_autocast(
    policy: RecurrentPolicy, precision: torch.dtype
) -> None:
    observations = torch.randn(2, 3, 5)
    with torch.autocast("cpu", precision):
        output = policy(observations, policy.initial_state(3))
    assert output.logits.dtype == torch.float32
    assert output.values.dtype == torch.float32
    trunk = output.trunk.detach()
    torch.testing.assert_close(output.logits, policy.heads(trunk), rtol=0, atol=0)


def test_another_agent_may_have_other_heads() -> None:
    layout = HeadLayout(names=("left", "right"), sizes=(2, 5))
    policy = RecurrentPolicy(4, layout=layout)
    logits = policy(torch.randn(1, 1, 4), policy.initial_state(1)).logits
    table = policy.head_log_probs(logits, torch.ones_like(logits, dtype=torch.bool))
    assert table.shape == (5, 1, 1, 2)
    torch.testing.assert_close(table.exp().sum(0), torch.ones(1, 1, 2))


def test_the_layout_is_the_contract() -> None:
    assert HeadLayout().names == HEAD_NAMES
    assert HeadLayout().total == sum(HEAD_SIZES)

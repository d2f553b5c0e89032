"""The closed-form gradients against those that autograd finds, operation by operation."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.tamiyo.categorical import likelihoods, masked_log_softmax, taken


def by_autograd(
    choices: torch.Tensor, illegal: torch.Tensor, actions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = masked_log_softmax(choices, illegal)
    finite = log_probs.masked_fill(illegal, 0.0)
    return taken(log_probs, actions), -(log_probs.exp() * finite).sum(0)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(0.1, 20.0))
def test_gradients_equal_those_of_autograd(seed: int, size: float) -> None:
    random = torch.Generator().manual_seed(seed)
    choices = size * torch.randn(5, 3, 2, 4, generator=random, dtype=torch.float64)
    illegal = torch.rand(5, 3, 2, 4, generator=random) > 0.6
    actions = torch.randint(5, (3, 2, 4), generator=random)
    illegal.scatter_(0, actions.unsqueeze(0), False)
    weights = torch.randn(2, 3, 2, 4, generator=random, dtype=torch.float64)

    choices.requires_grad_()
    ours = likelihoods(choices, illegal, actions)
    theirs = by_autograd(choices, illegal, actions)
    of_ours, of_theirs = (
        torch.autograd.grad((weights[0] * one + weights[1] * other).sum(), choices)[0]
        for one, other in (ours, theirs)
    )

    torch.testing.assert_close(ours.log_probs, theirs[0], rtol=0, atol=0)
    torch.testing.assert_close(ours.entropies, theirs[1], rtol=0, atol=0)
    torch.testing.assert_close(of_ours, of_theirs)
    assert (of_ours[illegal] == 0).all()


def test_a_legal_choice_of_probability_zero_has_a_finite_entropy_and_gradient() -> None:
    choices = torch.tensor([[3e38], [-3e38], [1.0]], requires_grad=True)
    both = likelihoods(choices, torch.zeros(3, 1, dtype=torch.bool), torch.tensor([0]))
    (both.log_probs + both.entropies).sum().backward()
    assert both.entropies.item() == 0.0
    assert choices.grad is not None
    assert choices.grad.isfinite().all()


def test_what_was_taken_against_the_mask_is_minus_infinite() -> None:
    illegal = torch.tensor([[True], [False], [False]])
    both = likelihoods(torch.zeros(3, 1), illegal, torch.tensor([0]))
    assert both.log_probs.isneginf().all()
    assert both.entropies.isfinite().all()

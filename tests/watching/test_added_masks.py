"""Masks of -inf that are added to logits or scores are intended and never reported as faults."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from esper.watching.watch import Watch

INF = math.inf


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.action = nn.Linear(4, 3)
        self.critic = nn.Linear(4, 1)

    def forward(self, x):
        return self.action(x), self.critic(x).squeeze(-1)


def existing(_logits):
    return torch.tensor([0.0, 0.0, -INF])


def filled(logits):
    mask = torch.zeros_like(logits)
    mask[:, 2] = -INF
    return mask


def triangular(logits):
    return torch.full(logits.shape, -INF).triu(2)


def logarithm(logits):
    flags = torch.ones_like(logits.detach())
    flags[:, 2] = 0.0
    return flags.log()


def chosen(logits):
    return torch.where(torch.tensor([True, True, False]), torch.zeros(3), torch.tensor(-INF))


MASKS = [existing, filled, triangular, logarithm, chosen]


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def train(model, make_mask, *, reward=lambda _step, rewards: rewards, before=None, replay="auto"):
    """Take three steps with masked logits, and return the watch."""
    optimizer = torch.optim.Adam(model.parameters())
    mask = make_mask(torch.zeros(8, 3))
    with Watch([model], [optimizer], {"action": 3}, replay=replay) as watch:
        for step in range(3):
            if before is not None:
                before(step)
            obs, rewards = torch.randn(8, 4), reward(step, torch.randn(8))
            logits, value = model(obs)
            mask = make_mask(logits)
            masked = (logits + mask) / 1.5
            dist = Categorical(logits=masked, validate_args=False)
            logp = dist.log_prob(torch.randint(2, (8,)))
            advantages = rewards - value.detach()
            loss = -(advantages * logp).mean() + (value - rewards).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert not watch.failures, watch.last_failure
    return watch


def broken(step, rewards):
    return rewards - (rewards - rewards) / (rewards - rewards) if step == 1 else rewards


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ActorCritic()


@pytest.mark.parametrize("make_mask", MASKS)
def test_a_mask_is_not_a_fault_and_hides_no_fault(model, make_mask):
    assert not train(ActorCritic(), make_mask).troubles
    watch = train(model, make_mask, reward=broken)
    assert found(watch)[0] == ("shared", "rewards", "nan")
    origin = watch.troubles[0].explanation.origin
    assert origin.operation.base == "div", watch.troubles[0].explanation.why_no_origin


@pytest.mark.parametrize("make_mask", [existing, filled])
def test_a_mask_hides_no_fault_if_the_loop_is_not_run_again(model, make_mask):
    watch = train(model, make_mask, reward=broken, replay="off")
    assert watch.troubles[0].explanation.origin is None
    assert found(watch)[0] == ("shared", "rewards", "nan")


def written(logits):
    logits[:, torch.tensor([False, False, True])] = -INF


def selected(logits):
    return torch.where(torch.tensor([True, True, False]), logits, torch.tensor(-INF))


@pytest.mark.parametrize("masked_by", [written, selected])
def test_minus_infinity_written_into_logits_is_a_mask(model, masked_by):
    optimizer = torch.optim.Adam(model.parameters())
    with Watch([model], [optimizer], {"action": 3}) as watch:
        for step in range(3):
            obs, rewards = torch.randn(8, 4), broken(step, torch.randn(8))
            logits = model(obs)[0].clone()
            chosen = masked_by(logits)
            logp = (logits if chosen is None else chosen).log_softmax(-1)
            loss = -(rewards * logp[:, 0]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert found(watch)[0] == ("shared", "rewards", "nan")


def test_a_bad_logit_of_minus_infinity_is_found_despite_a_mask(model):
    def before(step):
        if step == 1:
            with torch.no_grad():
                model.action.weight[1] = -3e38

    watch = train(model, existing, before=before)
    assert {owner for owner, _, _ in found(watch)[:1]} == {"action"}
    assert found(watch)[0][1] == "logits"


def test_a_reward_of_minus_infinity_is_not_a_mask(model):
    def sparse(step, rewards):
        rewards = torch.zeros_like(rewards)
        rewards[3] = -INF if step == 1 else 1.0
        return rewards + 0.0

    watch = train(model, existing, reward=sparse)
    assert found(watch)[0] == ("shared", "rewards", "-inf")


def test_a_mask_that_is_used_in_arithmetic_is_the_fault(model):
    optimizer = torch.optim.Adam(model.parameters())
    mask = torch.tensor([0.0, 0.0, -INF])
    with Watch([model], [optimizer], {"action": 3}) as watch:
        for _ in range(2):
            logits = model(torch.randn(8, 4))[0] + mask
            probs = logits.softmax(-1)
            entropy = -(probs * logits.log_softmax(-1)).sum(-1).mean()
            optimizer.zero_grad()
            entropy.backward()
            optimizer.step()
    origin = watch.troubles[0].explanation.origin
    assert (origin.operation.base, origin.cause) == (
        "mul",
        "inf * 0: the -inf of a mask was multiplied by 0",
    )


@pytest.mark.parametrize("is_in_loop", [False, True])
def test_an_attention_mask_is_not_a_fault_and_hides_no_fault(is_in_loop):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    optimizer = torch.optim.Adam(layer.parameters())
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with Watch([layer], [optimizer]) as watch:
        for step in range(4):
            if is_in_loop:
                mask = torch.full((5, 5), -INF).triu(1)
            tokens = torch.randn(2, 5, 8)
            if step == 2:
                assert not watch.troubles
                tokens = tokens * (tokens - tokens).rsqrt()
            loss = layer(tokens, src_mask=mask).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert found(watch)[0][:2] == ("shared", "tokens")
    assert watch.troubles[0].explanation.origin.operation.base == "rsqrt"

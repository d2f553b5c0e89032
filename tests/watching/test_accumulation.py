"""Gradients that are added up over several minibatches, of which an earlier one broke."""

import copy

import pytest
import torch
from torch import nn

from esper.watching.watch import Watch


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@pytest.fixture
def optimizer(model):
    return torch.optim.Adam(model.parameters())


def batches():
    """Return eight batches; the last is finite, and one of the four before a step is not."""
    made = [torch.ones(6, 4) for _ in range(8)]
    made[5][2, 1] = torch.nan
    return made


def learned(model, batch):
    return model(batch).log_softmax(-1)[:, 0].mean() / 4


def over_numbers(model, optimizer):
    held = batches()
    for number in range(8):
        batch = held[number]
        learned(model, batch).backward()
        if (number + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


def over_a_list(model, optimizer):
    held = batches()
    for number, batch in enumerate(held):
        loss = learned(model, batch)
        loss.backward()
        if (number + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


def over_a_loader(model, optimizer):
    for number, batch in enumerate(iter(batches())):
        learned(model, batch).backward()
        if (number + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()


def all_weights(model, optimizer):
    state = [value for one in optimizer.state.values() for value in one.values()]
    return [*(p.detach().clone() for p in model.parameters()), *state, torch.get_rng_state()]


@pytest.mark.parametrize("loop", [over_numbers, over_a_list])
def test_an_earlier_minibatch_is_repeated(loop, model, optimizer):
    with Watch([model], [optimizer], heads={"label": 3}, on_nonfinite="skip") as watch:
        loop(model, optimizer)

    (trouble,) = watch.troubles
    explanation = trouble.explanation
    (found,) = explanation.found
    assert (found.owner, found.quantity, found.kind) == ("shared", "held[5]", "nan")
    assert explanation.origin is not None, explanation.why_no_origin
    assert explanation.origin.operation.base == "addmm"
    assert watch.failures == 0, watch.last_failure


def test_a_minibatch_that_is_gone_is_said_to_be_gone(model, optimizer):
    with Watch([model], [optimizer], on_nonfinite="skip") as watch:
        over_a_loader(model, optimizer)

    (trouble,) = watch.troubles
    assert trouble.explanation.origin is None
    assert "gradients are accumulated" in trouble.explanation.why_no_origin
    assert "no longer available" in trouble.explanation.why_no_origin


def test_training_goes_on_as_if_nothing_was_repeated(model, optimizer):
    own = copy.deepcopy(model)
    own_optimizer = torch.optim.Adam(own.parameters())
    over_a_list(own, own_optimizer)
    with Watch([model], [optimizer]) as watch:
        over_a_list(model, optimizer)

    assert watch.troubles
    for one, other in zip(
        all_weights(own, own_optimizer), all_weights(model, optimizer), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)

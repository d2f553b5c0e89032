"""Output layers that mask their own logits: no fault, and a real one is still found."""

import math

import pytest
import torch
from torch import nn

from esper.watching.watch import Watch

INF = math.inf


class Own(nn.Module):
    """A layer with its own weights, which is not a subclass of another layer."""

    def __init__(self, inputs=4, outputs=3):
        super().__init__()
        self.out_features = outputs
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / 2)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def logits(self, inputs):
        return nn.functional.linear(inputs, self.weight, self.bias)

    def forward(self, inputs):
        return self.logits(inputs).masked_fill(torch.tensor([False, True, False]), -INF)


class Added(Own):
    """Adds the mask that it was given before."""

    def __init__(self):
        super().__init__()
        self.mask = torch.tensor([0.0, -INF, 0.0])

    def forward(self, inputs):
        return self.logits(inputs) + self.mask


class Given(Own):
    """Takes the mask with each call; sometimes it forbids nothing."""

    def forward(self, inputs, *, allowed=None):
        if allowed is None:
            allowed = torch.ones(3, dtype=torch.bool)
        return torch.where(allowed, self.logits(inputs), -INF)


class Linear(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, inputs):
        return super().forward(inputs).masked_fill(torch.tensor([False, True, False]), -INF)


def train(layer, when, *, fault=lambda _step: None, loss_of=None):
    """Act and train in six updates of two steps; return the watch."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    allowed = {"allowed": torch.tensor([True, False, True])} if isinstance(layer, Given) else {}
    with Watch([layer], [optimizer], {"a": 3}, when=when, finds_updates=False) as watch:
        for step in range(12):
            kwargs = allowed if step % 3 else {}
            with torch.no_grad():
                layer(torch.randn(2, 4), **kwargs)
            fault(step)
            logits = layer(torch.randn(5, 4), **kwargs)
            loss = logits.log_softmax(-1)[:, 0].mean()
            if loss_of is not None:
                loss = loss_of(step, loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 2:
                watch.update()
    assert not watch.failures, watch.last_failure
    return watch


def found(watch):
    return [
        (trouble.update, one.owner, one.quantity)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


LAYERS = pytest.mark.parametrize("layer", [Own, Added, Given, Linear])
MODES = pytest.mark.parametrize("when", ["step", "update"])


@LAYERS
@MODES
def test_a_layer_that_masks_its_own_logits_is_no_fault(layer, when):
    assert not train(layer(), when).troubles


@LAYERS
@MODES
def test_another_fault_beside_the_mask_is_named(layer, when):
    def loss_of(step, loss):
        return loss * math.nan if step == 7 else loss

    watch = train(layer(), when, loss_of=loss_of)
    assert found(watch)[0] == (4, "shared", "loss" if when == "step" else "gradient")


@pytest.mark.parametrize("layer", [Own, Added, Linear])
@MODES
def test_a_weight_that_breaks_in_such_a_layer_is_found(layer, when):
    own = layer()

    def fault(step):
        if step == 7:
            own.bias.data[0] = -INF

    watch = train(own, when, fault=fault)
    update, owner, quantity = found(watch)[0]
    assert (update, owner) == (4, "a")
    assert quantity in ("parameters", "logits", "gradient")


@MODES
def test_minus_infinity_that_no_mask_makes_is_found_in_such_a_layer(when):
    class Overflowing(Own):
        def forward(self, inputs):
            return self.logits(inputs).clamp(max=-1) * torch.tensor([1.0, 1.0, 3e38]) * 1e3

    watch = train(Overflowing(), when)
    assert found(watch)[0][1:] == ("a", "logits")


def test_a_frozen_choice_of_zero_bias_is_no_mask():
    own = Own()
    own.bias.data[:] = 0.0

    def fault(step):
        if step == 1:
            own.bias.data[0] = -INF

    assert found(train(own, "step", fault=fault))[0][1] == "a"

"""A NaN loss: with optimizers that step in a loop, under a scaler, and with skip or halt."""

import pytest
import torch
from torch import nn

from esper.watching.watch import Watch

STEPS, BAD = 5, 3


class Training:
    """A model with an optimizer for each of its layers."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        self.optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in self.model]
        self.losses = []

    @property
    def weights(self):
        return torch.cat([one.detach().flatten() for one in self.model.parameters()])

    def train(self, scaler=None):
        for number in range(1, STEPS + 1):
            outputs = self.model(torch.randn(8, 4))
            loss = outputs.square().mean()
            if number == BAD:
                loss = loss + torch.sqrt(outputs - 1e3).mean()
            self.losses.append(loss.item())
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            if scaler is None:
                loss.backward()
                for optimizer in self.optimizers:
                    optimizer.step()
            else:
                scaler.scale(loss).backward()
                for optimizer in self.optimizers:
                    scaler.step(optimizer)
                scaler.update()

    def train_in_a_function(self):
        for number in range(1, STEPS + 1):
            self.one_pass(torch.randn(8, 4), number)

    def one_pass(self, inputs, number):
        outputs = self.model(inputs)
        loss = outputs.square().mean()
        if number == BAD:
            loss = loss + torch.sqrt(outputs - 1e3).mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def train_after_another_backward_pass(self):
        self.model(torch.randn(8, 4)).sum().backward()
        for number in range(1, STEPS + 1):
            inputs = torch.randn(8, 4)
            if number == BAD:
                inputs = torch.sqrt(inputs - 1e3)
            self.update_with(inputs)

    def update_with(self, inputs):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.model(inputs).square().mean().backward()
        self.optimizers[0].step()
        self.optimizers[1].step()

    def train_with_a_nan_constant(self):
        for number in range(1, STEPS + 1):
            loss = self.model(torch.randn(8, 4)).square().mean()
            if number == BAD:
                loss = loss + torch.tensor(torch.nan)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss.backward()
            before = self.weights
            for optimizer in self.optimizers:
                optimizer.step()
            self.losses.append((loss.item(), torch.equal(before, self.weights)))


def watch_of(training, **options):
    return Watch([training.model], training.optimizers, {"y": 2}, finds_updates=False, **options)


def origin_of(watch):
    trouble = watch.troubles[0]
    assert (trouble.update, trouble.minibatch) == (1, 2 * BAD - 1)  # each minibatch has two steps
    assert trouble.explanation.origin is not None, trouble.explanation.why_no_origin
    return trouble.explanation.origin.operation.base


@pytest.mark.parametrize(
    "way", ["train", "train_in_a_function", "train_after_another_backward_pass"]
)
def test_a_loop_that_only_steps_optimizers_is_not_the_one_that_is_repeated(way):
    training = Training()
    with watch_of(training, on_nonfinite="skip") as watch:
        getattr(training, way)()
    assert origin_of(watch) == "sqrt"
    assert training.weights.isfinite().all()


def test_a_nan_loss_under_a_scaler_is_reported():
    training = Training()
    with watch_of(training) as watch:
        training.train(torch.amp.GradScaler("cpu"))
    assert origin_of(watch) == "sqrt"


def test_skip_leaves_out_the_steps_of_a_nan_loss_with_finite_gradients():
    training = Training()
    with watch_of(training, on_nonfinite="skip") as watch:
        training.train_with_a_nan_constant()
    assert len(watch.troubles) == 1
    is_same = [same for _, same in training.losses]
    assert is_same == [number == BAD for number in range(1, STEPS + 1)]


def test_halt_ends_training_at_a_nan_loss_with_finite_gradients():
    training = Training()
    with pytest.raises(SystemExit) as ended, watch_of(training, on_nonfinite="halt"):
        training.train_with_a_nan_constant()
    assert ended.value.code == 3
    assert len(training.losses) == BAD - 1


def test_halt_ends_training_at_outputs_of_weights_that_an_optimizer_broke():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), eps=0.0)
    losses = []

    def train():
        for _ in range(3):
            inputs = torch.zeros(8, 4)  # gradients of the weight are 0: Adam divides 0 by 0
            choice = torch.distributions.Categorical(logits=model(inputs))
            loss = choice.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    watch = Watch([model], [optimizer], {"y": 2}, on_nonfinite="halt")
    with pytest.raises(SystemExit) as ended, watch:
        train()
    assert ended.value.code == 3
    assert len(losses) == 1

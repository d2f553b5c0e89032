"""Optimizer steps that hooks of gradients take inside of the backward pass."""

import pytest
import torch
from torch import nn

from esper.watching.finding.child import forked
from esper.watching.recorder import NoRecorder
from esper.watching.watch import Watch

STEPS, BAD = 5, 3


class Kept(NoRecorder):
    """Keeps the record of the update."""

    def updated(self, record):
        self.record = record


class LogOfGradient(torch.autograd.Function):
    """Passes numbers on; where it is set to, its derivative is the log of the right one."""

    @staticmethod
    def forward(ctx, values, is_bad):
        ctx.is_bad = is_bad
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.log() if ctx.is_bad else gradient, None


class Training:
    """A model whose parameters are trained where their gradient is complete."""

    def __init__(self, fault="", *, is_in_backward=True, is_hand_written=False):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.fault, self.is_bad = fault, False
        self.parameters = list(self.model.parameters())
        groups = [[p] for p in self.parameters] if is_in_backward else [self.parameters]
        self.optimizers = [torch.optim.Adam(group, lr=0.01) for group in groups]
        self.of = dict(zip(self.parameters, self.optimizers, strict=False))
        self.is_in_backward = is_in_backward
        step = self.step_by_hand if is_hand_written else self.step
        for parameter in self.parameters if is_in_backward else ():
            parameter.register_post_accumulate_grad_hook(step)
        if is_hand_written:
            self.optimizers = []

    def step(self, parameter):
        if self.is_bad and self.fault == "hook":
            parameter.grad.div_(parameter.grad.norm() * 0)
        self.of[parameter].step()
        self.of[parameter].zero_grad()

    @torch.no_grad()
    def step_by_hand(self, parameter):
        parameter.sub_(parameter.grad, alpha=0.01)

    def run(self, **options):
        kept = Kept()
        with Watch(
            [self.model], self.optimizers, recorder=kept, finds_updates=False, **options
        ) as watch:
            self.train()
        assert not watch.failures, watch.last_failure
        return watch, kept.record

    def train(self):
        torch.manual_seed(1)
        for number in range(STEPS):
            self.is_bad = number == BAD
            x = torch.randn(6, 4)
            if self.is_bad and self.fault == "forward":
                x = x.sub(9).log()
            features = LogOfGradient.apply(
                self.model[1](self.model[0](x)), self.is_bad and self.fault == "backward"
            )
            loss = self.model[2](features).pow(2).mean()
            if self.is_bad and self.fault == "loss":
                loss = loss + torch.zeros(()).log() * 0
            loss.backward()
            if not self.is_in_backward:
                self.optimizers[0].step()
            for optimizer in self.optimizers:
                optimizer.zero_grad()

    @property
    def weights(self):
        return torch.cat([one.detach().flatten() for one in self.parameters])


@pytest.mark.parametrize("when", ["step", "update"])
def test_the_steps_of_one_backward_pass_are_one_minibatch(when):
    inside, plain = Training(), Training(is_in_backward=False)
    _, record = inside.run(when=when, heads={"action": 3})
    _, expected = plain.run(when=when, heads={"action": 3})

    assert torch.equal(inside.weights, plain.weights)
    assert record.steps == record.norms == expected.norms == STEPS
    assert record.norm_sum == pytest.approx(expected.norm_sum, rel=1e-4)
    assert record.owner_norms == pytest.approx(expected.owner_norms, rel=1e-4)


@pytest.mark.parametrize(
    ("fault", "quantity", "operation", "phase", "words"),
    [
        ("forward", "x", "log", "forward", "log of 0 or less"),
        ("backward", "gradient", "log", "backward", "in the derivative of LogOfGradient"),
        ("hook", "gradient", "div", "step", "in the step of 2.bias"),
    ],
)
@pytest.mark.parametrize("is_apart", [True, False])
def test_the_operation_is_named_once(
    fault, quantity, operation, phase, words, is_apart, monkeypatch
):
    if not is_apart:
        monkeypatch.setattr(forked, "can_fork", lambda _: False)
    training = Training(fault)
    watch, record = training.run(on_nonfinite="skip")

    (trouble,) = watch.troubles
    assert trouble.minibatch == BAD + 1
    assert trouble.explanation.found[0].quantity == quantity
    origin = trouble.explanation.origin
    assert (origin.operation.base, origin.operation.phase) == (operation, phase)
    assert words in origin.cause
    assert record.steps == STEPS
    assert record.left_out == 1
    assert training.weights.isfinite().all()


def test_only_what_comes_after_the_fault_is_named():
    watch, _ = Training("backward").run(on_nonfinite="skip")
    (trouble,) = watch.troubles
    assert {one.part for one in trouble.explanation.found} == {"0.bias"}


def test_a_fault_is_found_in_the_flags_of_the_update():
    watch, record = Training("backward").run(when="update")
    (trouble,) = watch.troubles
    assert trouble.minibatch == BAD + 1
    assert record.norms == BAD


def test_a_step_written_by_hand_is_not_taken_twice(monkeypatch):
    monkeypatch.setattr(forked, "can_fork", lambda _: False)
    unwatched, watched = (Training("loss", is_hand_written=True) for _ in range(2))
    unwatched.train()
    watch, _ = watched.run()
    assert torch.equal(unwatched.weights, watched.weights)
    assert watch.troubles[0].explanation.origin.operation.base == "log"

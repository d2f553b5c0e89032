"""Optimizers that are called as `step(closure)`, and compute their gradients inside the step."""

import pytest
import torch
from torch import nn

from esper.watching.agreement import NonfiniteHalt
from esper.watching.watch import Watch


class Sam(torch.optim.Optimizer):
    """Climbs to the worst weights nearby, and steps with the gradients that it finds there."""

    def __init__(self, parameters, base):
        super().__init__(parameters, {})
        self.base = base(self.param_groups, lr=0.1)

    @torch.no_grad()
    def step(self, closure):
        own = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [p.clone() for p in own]
        for p in own:
            p.add_(0.05 * p.grad / p.grad.norm())
        with torch.enable_grad():
            loss = closure()
        for p, old in zip(own, before, strict=True):
            if p.grad is not None:
                p.copy_(old)
        self.base.step()
        return loss


OPTIMIZERS = {
    "sgd": lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9),
    "adam": lambda own: torch.optim.Adam(own, lr=0.1),
    "lbfgs": lambda own: torch.optim.LBFGS(own, lr=0.1, max_iter=3),
    "wolfe": lambda own: torch.optim.LBFGS(own, max_iter=3, line_search_fn="strong_wolfe"),
    "sam": lambda own: Sam(own, torch.optim.SGD),
}


def trained(name, watch_of=Watch, *, root=0.1, call=1, seen=lambda _: None, **options):
    """Train for four minibatches, of which the third breaks in the given call of its closure."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    given = None if name == "sam" else [optimizer]
    with watch_of([model], given or (), **options) as watch:
        for number in range(1, 5):
            x = torch.randn(5, 4)
            calls = []

            def closure(x=x, calls=calls, number=number):
                calls.append(number)
                optimizer.zero_grad()
                shift = root if number == 3 and len(calls) == call else 0.1
                loss = (model(x).square() + shift).sqrt().mean()
                loss.backward()
                return loss

            if name == "sam":
                closure()
                calls.clear()
            before = [p.detach().clone() for p in model.parameters()]
            seen((number, before))
            optimizer.step(closure)
            if number == 3 and options.get("on_nonfinite") == "skip":
                after = [p.detach() for p in model.parameters()]
                assert all(map(torch.equal, before, after))
    return watch, model


def origin(watch):
    (trouble,) = watch.troubles
    explanation = trouble.explanation
    assert explanation.origin is not None, explanation.why_no_origin
    assert watch.failures == 0, watch.last_failure
    return trouble.minibatch, explanation.origin.operation


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_bad_step_is_skipped_and_its_operation_named(name):
    watch, model = trained(name, root=-100.0, on_nonfinite="skip")

    minibatch, operation = origin(watch)
    assert (minibatch, operation.base, operation.phase) == (3, "sqrt", "forward")
    assert ".sqrt()" in operation.place.code
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_ends_with_the_weights_before_the_step(name):
    kept = []
    with pytest.raises(NonfiniteHalt):
        trained(name, lambda *a, **o: kept.append(Watch(*a, **o)) or kept[-1], root=-100.0,
                on_nonfinite="halt", seen=kept.append)  # fmt: skip

    watch, (number, before) = kept[0], kept[-1]
    assert number == 3
    assert origin(watch)[1].base == "sqrt"
    assert all(map(torch.equal, before, [part.parameter.detach() for part in watch.parts]))


@pytest.mark.parametrize("name", ["lbfgs", "wolfe"])
def test_a_later_call_of_the_closure_is_looked_at(name):
    watch, model = trained(name, root=-100.0, call=2, on_nonfinite="skip")

    (trouble,) = watch.troubles
    assert (trouble.minibatch, watch.failures) == (3, 0)
    assert all(bool(p.isfinite().all()) for p in model.parameters())

"""What a call of `backward()` shows: a loss that is not finite, and the steps of no optimizer."""

import itertools

import pytest
import torch
from torch import nn

from esper.watching.agreement import NonfiniteHalt
from esper.watching.finding.child import forked
from esper.watching.watch import Watch

NAN = torch.nan


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def learn(model, *, bad=(), acts=False, **options):
    """Take six steps; some losses get a term that is NaN and has no derivative."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Watch([model], [optimizer], **options) as watch:
        for step in range(6):
            penalty = torch.zeros(()).log() * 0 if step in bad else torch.zeros(())
            loss = model(torch.randn(8, 4)).pow(2).mean() + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if acts:
                watch.update()
    assert not watch.failures, watch.last_failure
    return watch


def test_a_nan_loss_with_finite_gradients_is_found(model):
    assert not learn(model).troubles

    (trouble,) = learn(model, bad=[2, 3]).troubles

    assert trouble.minibatch == 3
    assert found(learn(model, bad=[2, 3])) == [("shared", "penalty", "-inf")]
    assert trouble.explanation.origin.operation.base == "log"


@pytest.mark.parametrize("when", ["step", "update"])
def test_a_nan_loss_that_stays_is_news_once(model, when):
    watch = learn(model, bad=[2, 3, 4, 5], acts=True, when=when)
    (trouble,) = watch.troubles
    assert trouble.update == 3
    if when == "update":
        assert found(watch) == [("shared", "loss", "nan")]


def test_a_step_of_a_nan_loss_is_left_out_though_its_gradients_are_finite(model):
    before = model.weight.detach().clone()
    watch = learn(model, bad=range(6), on_nonfinite="skip")
    assert watch.troubles
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("when", ["step", "update"])
def test_the_loss_of_another_model_is_none_of_its_business(model, when):
    other = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Watch([model], [optimizer], when=when) as watch:
        for _ in range(3):
            (other(torch.randn(8, 4)).sum() * NAN).backward()
            optimizer.zero_grad()
            model(torch.randn(8, 4)).pow(2).mean().backward()
            optimizer.step()
    assert not watch.troubles


def with_data(model):
    for parameter in model.parameters():
        parameter.data -= 0.1 * parameter.grad


@torch.no_grad()
def in_place(model):
    for parameter in model.parameters():
        parameter.sub_(parameter.grad, alpha=0.1)


def learn_without(model, step_with, bad=2, **options):
    with Watch([model], heads={"action": 3}, **options) as watch:
        for step in range(4):
            obs = torch.randn(8, 4)
            if step == bad:
                obs = obs - (obs - obs) / (obs - obs)
            loss = model(obs).pow(2).mean()
            model.zero_grad()
            loss.backward()
            step_with(model)
    assert not watch.failures, watch.last_failure
    return watch


@pytest.mark.parametrize("step_with", [with_data, in_place])
@pytest.mark.parametrize("can_fork", [True, False])
def test_without_an_optimizer_the_operation_is_named(model, step_with, can_fork, monkeypatch):
    if not can_fork:
        monkeypatch.setattr(forked, "can_fork", lambda _: False)
    (trouble,) = learn_without(model, step_with).troubles
    assert trouble.minibatch == 3
    assert [one.quantity for one in trouble.explanation.found] == ["obs"]
    assert trouble.explanation.origin.operation.base == "div"


def test_without_an_optimizer_nothing_is_found_in_a_clean_training(model):
    watch = learn_without(model, with_data, bad=-1)
    assert not watch.troubles
    assert not watch.is_stalled


def test_without_an_optimizer_training_is_halted_before_its_step(model):
    with pytest.raises(NonfiniteHalt):
        learn_without(model, with_data, on_nonfinite="halt")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("has_heads", [True, False])
def test_without_a_backward_pass_the_weights_are_named_and_what_to_do(
    model, has_heads, monkeypatch
):
    monkeypatch.setattr(forked, "can_fork", lambda _: False)
    states = []
    for is_watched in (False, True):
        torch.manual_seed(1)
        own = nn.Linear(4, 3)
        heads = {"action": 3} if has_heads else None
        watch = Watch([own] if is_watched else [model], heads=heads)
        for step in range(4):
            loss = own(torch.randn(8, 4)).pow(2).mean() * (NAN if step == 3 else 1.0)
            gradients = torch.autograd.grad(loss, list(own.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(own.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
        watch.close()
        states.append(own.weight.detach().nan_to_num(7.0))

    assert torch.equal(*states)
    (trouble,) = watch.troubles
    assert {one.quantity for one in trouble.explanation.found} == {"parameters"}
    assert trouble.minibatch == 0
    assert "give it to esper.watch" in trouble.explanation.why_no_origin


@pytest.mark.parametrize("on_nonfinite", ["report", "halt"])
def test_a_scale_that_overflows_before_the_first_step_is_no_fault(model, on_nonfinite):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with Watch([model], on_nonfinite=on_nonfinite) as watch:
        for _ in range(4):
            loss = model(torch.randn(8, 4)).pow(2).mean() * 8
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert not watch.troubles


def test_passes_that_accumulate_before_the_first_step_are_no_steps(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Watch([model]) as watch:
        for _ in range(3):
            model(torch.randn(8, 4)).pow(2).mean().backward()
        assert watch.has_stepped  # as far as can be known
        optimizer.step()
        model(torch.randn(8, 4)).mul(NAN).sum().backward()
        optimizer.step()
    (trouble,) = watch.troubles
    assert trouble.minibatch == 2


def test_the_function_of_torch_is_put_back(model):
    original = torch.autograd.backward
    for first, second in itertools.permutations(range(2)):
        watches = [Watch([model]), Watch([model])]
        assert torch.autograd.backward is not original
        watches[first].close()
        assert torch.autograd.backward is not original
        watches[second].close()
        assert torch.autograd.backward is original

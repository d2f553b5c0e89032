"""The optimizers that a watch checks, and what one of several processes repeats."""

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.testing._internal.distributed.fake_pg import FakeStore

from esper.watching.watch import Watch


def train(model, encoder, optimizer, *, at, fault, clips=False, skip=False, given=True):
    """Train four steps, with a fault in step `at`, and return the watch."""
    mode = "skip" if skip else "report"
    optimizers = [optimizer] if given else []
    with Watch([model], optimizers, {"a": 3}, on_nonfinite=mode) as watch:
        for step in range(4):
            outputs = model(encoder(torch.ones(4, 4)))
            loss = outputs.square().mean()
            if step == at:
                loss = fault(loss, encoder)
            optimizer.zero_grad()
            loss.backward()
            if clips:
                clip_grad_norm_([*encoder.parameters(), *model.parameters()], 1.0)
            optimizer.step()
    return watch


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("clips", [True, False])
def test_the_first_parameter_of_an_optimizer_may_belong_to_another_model(given, clips):
    encoder, model = nn.Linear(4, 4), nn.Linear(4, 3)
    optimizer = torch.optim.SGD([*encoder.parameters(), *model.parameters()], lr=0.1)

    watch = train(
        model, encoder, optimizer, at=2, fault=lambda loss, _: loss * torch.nan, clips=clips,
        skip=True, given=given,
    )  # fmt: skip

    (trouble,) = watch.troubles
    assert trouble.minibatch == 3
    assert all(bool(one.isfinite().all()) for one in [*model.parameters(), *encoder.parameters()])


@pytest.mark.parametrize("clips", [True, False])
def test_a_step_is_bad_if_only_gradients_of_another_model_are(clips):
    encoder, model = nn.Linear(4, 4), nn.Linear(4, 3)
    optimizer = torch.optim.SGD([*encoder.parameters(), *model.parameters()], lr=0.1)

    def fault(loss, encoder):
        return loss + (encoder.weight * 0).abs().sqrt().sum()  # only the derivative is NaN

    watch = train(model, encoder, optimizer, at=1, fault=fault, clips=clips, skip=True)

    (trouble,) = watch.troubles
    assert {one.quantity for one in trouble.explanation.found} == {"gradient"}
    assert watch.failures == 0
    assert all(bool(one.isfinite().all()) for one in [*model.parameters(), *encoder.parameters()])


def test_an_optimizer_of_another_model_is_ignored():
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with Watch([model]) as watch:
        (other(torch.ones(2, 4)).sum() * torch.nan).backward()
        optimizer.step()
        assert not watch.has_stepped

        optimizer.add_param_group({"params": list(model.parameters())})
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        assert watch.has_stepped


class Model(nn.Linear):
    """Has a collective in each call, or none."""

    def __init__(self, *, has_collective):
        super().__init__(4, 3)
        self.has_collective = has_collective

    def forward(self, inputs):
        if self.has_collective:
            torch.distributed.all_reduce(inputs.clone())
        return super().forward(inputs)


@pytest.mark.parametrize("has_collective", [True, False])
def test_one_of_several_processes_repeats_what_needs_no_other(has_collective):
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = Model(has_collective=has_collective)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Watch([model], [optimizer]) as watch:
            for step in range(3):
                loss = model(torch.ones(2, 4)).sum() * (torch.nan if step == 1 else 1.0)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    finally:
        torch.distributed.destroy_process_group()

    (trouble,) = watch.troubles
    assert watch.failures == 0
    if has_collective:
        assert "without the other ranks" in trouble.explanation.why_no_origin
    else:
        assert trouble.explanation.origin is not None

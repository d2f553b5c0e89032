"""Steps that an integration reports, where the optimizer's own hooks come at other times."""

import torch
from torch import nn

from esper.watching.watch import Watch


def watched(**options):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, Watch([model], [optimizer], hooks_steps=False, **options)


def backward(model, watch, optimizer, scale=1.0, *, is_scaled=False):
    loss = model(torch.ones(4, 3)).mean()
    watch.hold(loss)
    optimizer.zero_grad()
    (loss * scale).backward()
    watch.before_step(optimizer, is_scaled=is_scaled)
    if all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None):
        optimizer.step()
    watch.after_step()


def test_a_step_that_a_loss_scaler_leaves_out_is_ordinary():
    model, optimizer, watch = watched()
    with watch:
        backward(model, watch, optimizer, is_scaled=True)
        backward(model, watch, optimizer, scale=1e39, is_scaled=True)
        watch.update()

    assert (watch.troubles, watch.last_failure) == ([], "")


def test_a_loss_that_is_not_finite_lights_even_with_a_scaler():
    model, optimizer, watch = watched()
    with watch:
        model.bias.data[0] = torch.nan
        backward(model, watch, optimizer, is_scaled=True)

    (trouble,) = watch.troubles
    assert [one.quantity for one in trouble.explanation.found] == ["parameters"]
    assert watch.last_failure == ""


def test_what_is_not_finite_is_checked_once_per_update():
    _, _, watch = watched(heads=None)
    with watch:
        for _ in range(3):
            assert not watch.check("reward", [1.0, float("inf")], "reward", "reward.py:3")
        watch.update()
        assert not watch.check("reward", [float("inf")], "reward")

    assert [trouble.update for trouble in watch.troubles] == [1, 2]
    assert watch.troubles[0].explanation.why_no_origin == "it comes from reward.py:3"

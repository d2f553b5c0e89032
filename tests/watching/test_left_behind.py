"""What a watch leaves behind: no tensors of an incident, and nothing of Esper in a saved model."""

import gc
import io
import sys
import weakref

import pytest
import torch
from torch import nn

from esper.watching.finding.child import forked
from esper.watching.watch import Watch


def train(model, optimizer, watch_variables):
    """Train with one bad minibatch, whose variables are deleted like those of all others."""
    for step in range(3):
        batch = torch.ones(2, 4)
        if step == 1:
            batch = batch / 0
        features = model(batch)
        loss = features.square().mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 1:
            watch_variables(batch, features, loss)
        optimizer.step()
        del batch, features, loss


@pytest.mark.parametrize("replay", ["auto", "model", "off"])
@pytest.mark.parametrize("is_forked", [True, False])
def test_no_tensor_of_an_incident_lives_on(monkeypatch, replay, is_forked):
    if not is_forked:
        monkeypatch.setattr(forked, "can_fork", lambda _: False)
    model, held = nn.Linear(4, 2), []
    optimizer = torch.optim.SGD(model.parameters())

    def watch_variables(*variables):
        held.extend(weakref.ref(each) for each in variables)

    gc.disable()  # what only the collector frees would live on for long
    try:
        with Watch([model], [optimizer], on_nonfinite="skip", replay=replay) as watch:
            train(model, optimizer, watch_variables)
            assert len(held) >= 3
            assert all(one() is None for one in held)
    finally:
        gc.enable()
    (trouble,) = watch.troubles
    assert trouble.explanation.found[0].quantity == "batch"


def test_variables_that_the_training_reads_itself_stay():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    with Watch([model], [optimizer], on_nonfinite="skip", replay="off") as watch:
        loss = model(torch.full((1, 1), torch.nan)).sum()
        held = locals()
        loss.backward()
        optimizer.step()
        assert held["loss"] is loss
    assert watch.troubles


def test_a_model_that_was_saved_while_it_was_watched_needs_no_esper(monkeypatch):
    model, file = nn.Sequential(nn.Linear(2, 3)), io.BytesIO()
    with Watch([model], heads={"action": 3}):
        torch.save(model, file)
    for name in [name for name in sys.modules if name.partition(".")[0] == "esper"]:
        monkeypatch.setitem(sys.modules, name, None)
    file.seek(0)

    loaded = torch.load(file, weights_only=False)

    batch = torch.ones(1, 2)
    assert torch.equal(loaded(batch), model(batch))

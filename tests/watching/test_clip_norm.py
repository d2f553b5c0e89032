"""A norm that the loop keeps is a consequence of its gradients, not their cause."""

import torch
from tiny_language_models import poison
from torch import nn

from esper.watching.watch import Watch


def test_a_norm_in_a_variable_is_not_the_cause():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with Watch([model], [optimizer], {"steer": 2}) as watch:
        for number in range(3):
            logits = model(torch.ones(4, 3))
            if number == 1:
                logits = poison(logits)
            loss = logits.mean()
            optimizer.zero_grad()
            loss.backward()
            grad_norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            norms.append(grad_norm.item())

    (trouble,) = watch.troubles
    assert {one.quantity for one in trouble.explanation.found} == {"gradient"}
    assert trouble.explanation.origin.operation.phase == "backward"


class Callbacks:
    """What a trainer calls at the begin of a step."""

    def __init__(self):
        self.calls = 0

    def on_step_begin(self):
        self.calls += 1


def test_a_loop_that_calls_callbacks_is_not_run_again():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = Callbacks()
    with Watch([model], [optimizer], {"steer": 2}) as watch:
        for number in range(3):
            callbacks.on_step_begin()
            logits = model(torch.ones(4, 3))
            loss = (poison(logits) if number == 1 else logits).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    (trouble,) = watch.troubles
    assert callbacks.calls == 3
    assert trouble.explanation.origin is None

"""The gradient norm of each head and group, which is measured once per update."""

import pytest
import torch
from torch import nn

from esper.watching.recorder import NoRecorder
from esper.watching.watch import Watch


class Kept(NoRecorder):
    """Keeps the records of updates."""

    def __init__(self):
        self.records = []

    def updated(self, record):
        self.records.append(record)


def norm(*gradients):
    return torch.cat([one.flatten() for one in gradients]).norm().item()


@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("when", ["step", "update"])
def test_heads_and_groups_have_the_norm_of_the_first_step_before_clipping(when, clips):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept, expected = Kept(), []
    groups = {"body": "0"}
    with Watch(
        [model], [optimizer], {"a": 3, "b": 2}, groups=groups, recorder=kept, when=when,
        finds_updates=False,
    ) as watch:  # fmt: skip
        for _update in range(2):
            for step in range(3):
                optimizer.zero_grad()
                model(torch.randn(16, 4)).square().mean().backward()
                if not step:
                    weight, bias = model[2].weight.grad.clone(), model[2].bias.grad.clone()
                    body = [one.grad.clone() for one in model[0].parameters()]
                    expected.append({
                        "a": norm(weight[:3], bias[:3]),
                        "b": norm(weight[3:], bias[3:]),
                        "body": norm(*body),
                    })  # fmt: skip
                if clips:
                    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                optimizer.step()
            watch.update()

    assert watch.failures == 0, watch.last_failure
    assert [record.owner_norms for record in kept.records] == [
        pytest.approx(one, rel=1e-5) for one in expected
    ]


def test_an_update_without_a_step_has_none():
    model = nn.Linear(4, 5)
    kept = Kept()
    with Watch([model], [], {"a": 3, "b": 2}, recorder=kept, finds_updates=False) as watch:
        watch.update()

    assert kept.records[0].owner_norms == {}

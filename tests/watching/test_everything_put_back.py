"""Running a minibatch again leaves no trace in modules and in the loop's own objects."""

from types import SimpleNamespace

import torch
from torch import nn

from esper.watching.finding.repeating.put_back import everything_put_back
from esper.watching.model.heads import Head
from esper.watching.model.parts import parts_of


class Counts(nn.Module):
    """A module that counts its calls, and sums what it is given in a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.calls, self.total, self.seen = 0, torch.zeros(2), {"values": []}

    def forward(self, values):
        self.calls += 1
        self.total += values
        self.seen["values"].append(1)
        return values * self.weight


def test_attributes_of_modules_and_objects_are_put_back():
    module, owner = Counts(), SimpleNamespace(metrics={"train": {"loss": [1.0]}}, step=3)
    held = module.seen, module.total, owner.metrics
    module(torch.ones(2))

    with everything_put_back([module], [owner]):
        module(torch.ones(2))
        module.weight.requires_grad_(False)
        owner.metrics["train"]["loss"].append(2.0)
        owner.step += 1

    assert (module.calls, module.seen, module.total.tolist()) == (1, {"values": [1]}, [1.0, 1.0])
    assert module.weight.requires_grad
    assert (owner.metrics, owner.step) == ({"train": {"loss": [1.0]}}, 3)
    assert all(one is other for one, other in zip(
        held, (module.seen, module.total, owner.metrics), strict=True))  # fmt: skip


def test_quantized_weights_are_no_parts():
    model = nn.Linear(3, 5)
    model.packed = nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)

    assert [part.name for part in parts_of([model], [], None)] == ["weight", "bias"]


def test_a_tied_weight_is_shared():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "lm_head": nn.Linear(3, 5)})
    heads = [Head("lm_head", "categorical", range(5))]

    parts = parts_of([model], heads, model["lm_head"])
    assert [bool(part.rows) for part in parts] == [False, True, True]

    model["lm_head"].weight = model["embedding"].weight
    parts = parts_of([model], heads, model["lm_head"])
    assert [(part.owner, bool(part.rows)) for part in parts] == [("shared", False), ("", True)]

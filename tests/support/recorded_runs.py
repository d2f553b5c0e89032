"""A small training loop whose bad minibatch is recorded, and its replay."""

import torch
from torch import nn

import esper
from esper.services.incident_reports import replay_incident
from esper.simic.command_progress import NoProgress


class Net(nn.Module):
    """A network whose output is scaled by a square root: NaN below 0, infinite derivative at 0."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return self.head(self.body(inputs)) * self.scale.sqrt()


def train(folder, scale, *, autocast=False, watched=True, steps=4):
    """Train a network whose scale is set before the last step; return it and its losses."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watch = esper.watch(model, optimizer, {"a": 3}, run_dir=folder) if watched else None
    losses = []
    for number in range(steps):
        inputs, targets = torch.randn(8, 4), torch.randint(0, 3, (8,))
        if number == steps - 1:
            with torch.no_grad():
                model.scale.fill_(scale)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            weights = torch.ones(1, 3).expand(8, 3)  # more elements than memory
            loss = nn.functional.cross_entropy(model(inputs) * weights, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    if watch is not None:
        watch.close()
        assert watch.failures == 0, watch.last_failure
    return model, losses


def replayed(folder, number=None):
    (run,) = folder.iterdir()
    return replay_incident(run.parent, str(run), number, update=None, progress=NoProgress()).replay

"""Supervised training: groups of parameters, accumulation, half precision, loss scaling."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from watched_loops.broken_layers import UserLayer
from watched_loops.stage import Stage

SIZE = 8
CLASSES = 5
BATCH = 8
ROWS = 64


@dataclass
class Settings:
    """Of a training.

    Attributes:
        dtype: of autocast; None without.
        scaler: of the loss.
        accumulate: batches per optimizer step.
        max_norm: at which gradients are clipped; 0: they are not.
        loss_scale: a factor of the loss.
    """

    dtype: torch.dtype | None
    scaler: torch.amp.GradScaler
    accumulate: int
    max_norm: float
    loss_scale: float = 1.0


class Classifier(nn.Module):
    """An encoder, a decoder, a head, and a part that is frozen."""

    def __init__(self, layer: UserLayer) -> None:
        super().__init__()
        self.frozen = nn.Linear(SIZE, SIZE).requires_grad_(requires_grad=False)
        self.encoder = nn.Sequential(nn.Linear(SIZE, 16), nn.Tanh(), layer)
        self.decoder = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, CLASSES)
        self.unused = nn.Linear(16, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.encoder(self.frozen(inputs) + inputs)
        hidden = self.decoder(hidden)
        return self.head(hidden) + 0 * self.unused(hidden).sum(-1, keepdim=True)


def train(stage: Stage) -> None:
    """Train a classifier."""
    model, (optimizer,), settings = stage.extra["agent"], stage.optimizers, stage.extra["settings"]
    generator = torch.Generator().manual_seed(stage.extra["seed"])
    scaler = settings.scaler
    for update in range(1, stage.updates + 1):
        stage.begin_acting(update)
        inputs = torch.randn(ROWS, SIZE, generator=generator) * stage.world.observation_scale
        inputs[3, 1] += stage.world.take_observation()
        if stage.world.dead:
            inputs[:, 0] = 0
        labels = torch.randint(CLASSES, (ROWS,), generator=generator)
        weights = torch.rand(ROWS, generator=generator) * stage.world.reward_scale
        weights[5] += stage.world.take_reward()
        stage.begin_learning(update, {"observations": inputs, "advantages": weights})
        optimizer.zero_grad()
        for number, start in enumerate(range(0, ROWS, BATCH), start=1):
            batch = inputs[start : start + BATCH]
            batch_labels = labels[start : start + BATCH]
            batch_weights = weights[start : start + BATCH]
            with torch.autocast("cpu", settings.dtype, enabled=settings.dtype is not None):
                logits = model(batch)
                losses = F.cross_entropy(logits.float(), batch_labels, reduction="none")
            loss = (losses * batch_weights).mean() * settings.loss_scale
            scaler.scale(loss / settings.accumulate).backward()
            if number % settings.accumulate == 0:
                if settings.max_norm:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), settings.max_norm)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        stage.end_update()

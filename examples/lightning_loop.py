"""Lightning with Esper's lights: a small classifier of points in a plane.

    python examples/lightning_loop.py
    sanctum                             # in another terminal, or afterwards

Only the line marked with "Esper" is not part of the training. `--break-at BATCH` gives one point
of that batch a NaN, to see what Esper says.
"""

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper.integrations.lightning import EsperCallback

BATCH = 32


class Classifier(LightningModule):
    def __init__(self, width: int = 32, learning_rate: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(2, width), nn.Tanh())
        self.head = nn.Linear(width, 3)

    def training_step(self, batch, batch_idx):
        points, classes = batch
        logits = self.head(self.body(points))
        loss = nn.functional.cross_entropy(logits, classes)
        self.log("loss", loss)
        self.log("accuracy", (logits.argmax(-1) == classes).float().mean())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--break-at", type=int, default=0, metavar="BATCH")
    options = parser.parse_args()

    torch.manual_seed(1)
    points = torch.randn(options.batches * BATCH, 2)
    classes = (points.norm(dim=-1) * 1.5).long().clamp(max=2)
    if options.break_at:
        points[(options.break_at - 1) * BATCH] = torch.nan
    model = Classifier()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        log_every_n_steps=10,
        logger=False,
        enable_checkpointing=False,
        callbacks=[EsperCallback(heads={"class": 3})],  # Esper
    )
    trainer.fit(model, DataLoader(TensorDataset(points, classes), batch_size=BATCH))


if __name__ == "__main__":
    main()

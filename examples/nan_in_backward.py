"""A loss that is always finite, and a gradient that is not.

    python examples/nan_in_backward.py
    python examples/nan_in_backward.py --mended

The length of a row of zeros is 0, and the derivative of the square root at 0 is infinite: times the
zero that follows it, a NaN. Batches with padding have such rows.
"""

import argparse

import torch
from torch import Tensor, nn

import esper


class Encoder(nn.Module):
    """Scales each row of features to length 1."""

    def __init__(self, *, is_mended: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16, bias=False)
        self.smallest = 1e-12 if is_mended else 0.0

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.layer(inputs)
        length = (features.square().sum(-1, keepdim=True) + self.smallest).sqrt()
        return features / (length + 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mended", action="store_true")
    options = parser.parse_args()

    torch.manual_seed(1)
    encoder, classifier = Encoder(is_mended=options.mended), nn.Linear(16, 3)
    model = nn.Sequential()
    model.add_module("encoder", encoder)
    model.add_module("classifier", classifier)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    with esper.watch(
        model,
        optimizer,
        heads={"label": 3},
        groups={"encoder": "encoder"},
        name="padding",
        on_nonfinite="skip",
    ) as watch:
        for step in range(60):
            inputs, labels = torch.randn(32, 8), torch.randint(3, (32,))
            if step == 40:
                inputs[30:] = 0.0  # two rows of padding
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 9:
                watch.update(loss=loss.item())


if __name__ == "__main__":
    main()

"""Training of ordinary modules: several copies of one network in lockstep, by `torch.func.vmap`.

Copies differ in first weights, samples and learning rate. A small network spends its time on the
overhead of operations, which the copies share: 4 copies take 0.4 to 0.7, 40 copies 0.1 to 0.4 of
the time that they take one after the other (minibatches of 8 and 50, a grown network of MNIST-1D).
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from esper.growth.export.module_files import PortableModule
from esper.growth.hosts.minibatches import fitting_batch
from esper.growth.kernel.adam import AdamSettings, adam_step_, step_coefficients
from esper.simic.environment import BATCH

#: Measurements within a run.
_MEASUREMENTS = 20
#: Share of a run in which the rate rises.
_RISING = 0.1
_CHUNK = 500


@dataclass(frozen=True)
class RawPart:
    """Raw samples, in the form that a standalone network takes, and their labels `[n]`."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Run:
    """A run's schedule.

    Attributes:
        rate: the highest learning rate.
        length: minibatches until the rate is 0.
        stop: minibatches that are trained.
    """

    rate: float
    length: int
    stop: int

    def rate_at(self, minibatch: int) -> float:
        """Return the learning rate of a minibatch, counted from 0."""
        rising = max(1, round(_RISING * self.length))
        if minibatch < rising:
            return self.rate * (minibatch + 1) / rising
        return self.rate * (1 - (minibatch - rising) / max(1, self.length - rising))


@dataclass
class Curve:
    """Measurements of one copy on its validation part, until it is not finite.

    Attributes:
        at: minibatches trained at each measurement.
        right: samples that were right, 0 or 1. Each `[n]`
        loss: mean loss, in nats.
        best: the network at the best measurement if it was to be kept. Without a validation part,
            the network at the end.
    """

    at: list[int] = field(default_factory=list)
    right: list[np.ndarray] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    best: PortableModule | None = None
    is_over: bool = False


def train_modules(
    starts: Sequence[PortableModule],
    samples: RawPart,
    trained: Sequence[Tensor],
    validation: Sequence[RawPart] | None,
    runs: Sequence[Run],
    *,
    rng_seed: int,
    device: torch.device,
    keeps_best: bool = False,
    on_minibatch: Callable[[int], None] = lambda _: None,
) -> list[Curve]:
    """Train R copies of a network.

    Args:
        starts: the network with the first weights of each copy. `[R]`
        samples: all samples.
        trained: rows of the samples that each copy is trained on. `[R]`, each `[m]`
        validation: the part that each copy is measured on; None measures nothing.
        runs: schedules, which are alike but for the rate. `[R]`
        rng_seed: random seed of the order of the samples.
        device: of the training.
        keeps_best: whether the network of the best measurement is kept.
        on_minibatch: called after each minibatch with their number.
    """
    copies = _Copies(starts, device)
    curves = [Curve() for _ in starts]
    first = runs[0]
    every = max(1, first.length // _MEASUREMENTS)
    lengths, epsilons = (
        torch.from_numpy(table).float().to(device)  # [stop, 1]
        for table in step_coefficients(AdamSettings(1.0), np.zeros(1), first.stop)
    )
    settings = AdamSettings()
    best = [(-1.0, -math.inf)] * len(starts)
    batch = fitting_batch(min(map(len, trained)), BATCH)
    orders = [_order(rows, batch, rng_seed) for rows in trained]
    for number in range(first.stop):
        index = torch.stack([next(order) for order in orders])  # [R, batch]
        inputs, labels = samples.inputs[index].to(device), samples.labels[index].to(device)
        gradient = copies.gradient(inputs, labels)
        rates = torch.tensor([[run.rate_at(number)] for run in runs], device=device)
        adam_step_(copies.state, gradient, rates * lengths[number], epsilons[number], settings)
        done = number + 1
        on_minibatch(done)
        if validation is None or not (done % every == 0 or done == first.stop):
            continue
        for at, (curve, part) in enumerate(zip(curves, validation, strict=True)):
            if curve.is_over:
                continue
            right, loss = copies.measured(at, part)
            if not math.isfinite(loss):
                curve.is_over = True
                continue
            curve.at.append(done)
            curve.right.append(right)
            curve.loss.append(loss)
            rank = (float(right.mean()), -loss)
            if keeps_best and rank > best[at]:
                best[at], curve.best = rank, copies.portable(at)
    if validation is None:
        for at, curve in enumerate(curves):
            curve.best = copies.portable(at)
    return curves


def _order(rows: Tensor, batch: int, rng_seed: int) -> Iterator[Tensor]:
    """Yield the rows of each minibatch, in another order in each pass; a remainder is left out."""
    generator = torch.Generator().manual_seed(rng_seed)
    while True:
        order = rows[torch.randperm(len(rows), generator=generator)]
        yield from order[: len(rows) // batch * batch].split(batch)


class _Copies:
    """R copies of one network.

    Attributes:
        state: their parameters, first and second moments of Adam. `[3, R, size]`
    """

    def __init__(self, starts: Sequence[PortableModule], device: torch.device) -> None:
        self._start = starts[0]
        self._network = starts[0].module().to(device).train()
        self._parameters = {name: each.shape for name, each in self._network.named_parameters()}
        rows = []
        for start in starts:
            values = [start.state[name].reshape(-1).float() for name in self._parameters]
            rows.append(torch.cat(values))
        self.state = torch.zeros(3, len(starts), len(rows[0]), device=device)
        self.state[0] = torch.stack(rows)
        self._buffers = {
            name: torch.stack([start.state.get(name, buffer).to(buffer) for start in starts])
            for name, buffer in self._network.named_buffers()
        }

    def gradient(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of each copy's loss on its minibatch. `[R, size]`

        Args:
            inputs: `[R, B, ...]`
            labels: `[R, B]`
        """
        flat = self.state[0].detach().requires_grad_()
        tensors = self._split(flat)
        if len(flat) == 1:  # vmap would take longer
            logits = self._call(*self._one(0, tensors), inputs[0])[None]
        else:
            with sdpa_kernel(SDPBackend.MATH):  # vmap has no rule for the fused attention
                logits = vmap(self._call)(tensors, self._buffers, inputs)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        (gradient,) = torch.autograd.grad(losses / labels.shape[1], flat)
        return gradient

    @torch.no_grad()
    def measured(self, at: int, part: RawPart) -> tuple[np.ndarray, float]:
        """Return which samples a copy gets right, and its mean loss, in evaluation mode."""
        tensors = self._one(at, self._split(self.state[0]))
        self._network.eval()
        logits = logits_in_chunks(lambda inputs: self._call(*tensors, inputs), part.inputs)
        self._network.train()
        labels = part.labels.cpu()
        right: np.ndarray = (logits.argmax(1) == labels).double().numpy()
        return right, float(F.cross_entropy(logits, labels))

    def portable(self, at: int) -> PortableModule:
        """Return one of the copies with its present weights."""
        network = copy.deepcopy(self._network)
        parameters, buffers = self._one(at, self._split(self.state[0]))
        network.load_state_dict(parameters | buffers)
        return self._start.with_weights(network)

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of parameters `[R, size]` by name. Each `[R, *shape]`"""
        sizes = [math.prod(shape) for shape in self._parameters.values()]
        return {
            name: piece.view(len(flat), *shape)
            for (name, shape), piece in zip(
                self._parameters.items(), flat.split(sizes, dim=1), strict=True
            )
        }

    def _one(
        self, at: int, tensors: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return (
            {name: tensor[at] for name, tensor in tensors.items()},
            {name: buffer[at] for name, buffer in self._buffers.items()},
        )

    def _call(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor
    ) -> Tensor:
        logits: Tensor = functional_call(self._network, (parameters, buffers), (inputs,))
        return logits


def logits_in_chunks(network: nn.Module | Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the logits of a network for raw samples, on the CPU. `[n, classes]`"""
    return torch.cat([network(part).cpu() for part in inputs.split(_CHUNK)])

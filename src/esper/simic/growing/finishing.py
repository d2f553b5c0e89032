"""Finishing: a network trains to convergence with a falling rate and early stopping.

All networks of a comparison are finished alike. A run begins at the given weights. Adam's rate
rises for a tenth of the run and then falls to 0. Each rate of `LEARNING_RATES` is tried in a run of
the first length, and the best by validation accuracy is tried in runs of twice the length until
that does not help. The weights of the best measurement within a run are kept. (Each run begins
again, because a rate that has fallen to 0 cannot be continued.)

Where a task is folded, a run is made in every fold, and validation figures are means over them. The
last run trains on all samples, at the rate and for the length that were best in the folds.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from esper.growth.export.module_files import PortableModule
from esper.growth.hosts.minibatches import fitting_batch
from esper.growth.tasks.folds import Folds
from esper.growth.tasks.task import Split, Task
from esper.simic.environment import BATCH
from esper.simic.evaluation.tuning import LEARNING_RATES

#: Length of the first runs: passes over the training part, within limits of minibatches.
_PASSES, _SHORTEST, _LONGEST = 12, 300, 3000
#: Number of times that the length is doubled at most.
_DOUBLINGS = 3
#: Measurements within a run.
_MEASUREMENTS = 20
#: Share of a run in which the rate rises.
_RISING = 0.1
#: Minibatches by which the time that a run takes is estimated, and of the shortest possible run.
_TRIED, _LEAST = 8, 20
_CHUNK = 500


@dataclass(frozen=True)
class RawPart:
    """Raw samples, as a network of its own takes them, and their labels `[n]`."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class FinishData:
    """The samples with which networks are finished.

    Attributes:
        divisions: training and validation part of each fold, and the rows of the latter among all
            samples.
        whole: all samples of a folded task but those for test; the training part of others.
        test: the test part.
        measured: number of samples that are in some validation part.
        repeats: how often each of them is.
    """

    divisions: tuple[tuple[RawPart, RawPart, np.ndarray], ...]
    whole: RawPart
    test: RawPart
    measured: int
    repeats: int

    @property
    def is_folded(self) -> bool:
        """Whether there are several divisions."""
        return len(self.divisions) > 1


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


@dataclass(frozen=True)
class Finished:
    """A finished network.

    Attributes:
        portable: the network with its last weights.
        logits: its logits on the test part. `[n, classes]`
        hits: how often each validation sample is right, 0 to 1. `[n]`
        test_accuracy: fraction of the test part that is right.
        run: the chosen rate and length.
        minibatches: trained in all runs together.
        seconds: of all runs together.
    """

    portable: PortableModule
    logits: torch.Tensor
    hits: np.ndarray
    test_accuracy: float
    run: Run
    minibatches: int
    seconds: float

    @property
    def validation_accuracy(self) -> float:
        """Fraction of the validation samples that is right."""
        return float(self.hits.mean())

    @property
    def is_finite(self) -> bool:
        """Whether all its logits are finite."""
        return bool(self.logits.isfinite().all())


def finish_data(task: Task, folds: Folds) -> FinishData:
    """Return the samples of a task, and of its folds."""
    divisions = tuple(
        (raw_part(each, each.train), raw_part(each, each.validation), rows)
        for each, rows in zip(folds.tasks, folds.rows, strict=True)
    )
    is_folded = len(divisions) > 1
    whole = raw_part(task, folds.whole) if is_folded else divisions[0][0]
    measured = len(folds.whole) if is_folded else len(task.validation)
    return FinishData(divisions, whole, raw_part(task, task.test), measured, folds.repeats)


def raw_part(task: Task, split: Split) -> RawPart:
    """Return a part of a task as a network of its own takes it."""
    inputs = task.raw(split)
    scale = task.standardisation
    if inputs.dtype == torch.float64 and not (scale is not None and scale.needs_float64):
        inputs = inputs.float()
    return RawPart(inputs, split.labels)


@dataclass
class Budget:
    """Time that is left for finishing.

    Attributes:
        ends: value of the clock at which all must be done; None without a limit.
        clock: returns the seconds of a monotonic clock.
    """

    ends: float | None = None
    clock: Callable[[], float] = time.monotonic

    def share(self, parts: int) -> "Budget":
        """Return the budget of one of the parts that are still to be done."""
        if self.ends is None:
            return self
        now = self.clock()
        return Budget(now + max(0.0, self.ends - now) / parts, self.clock)

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return math.inf if self.ends is None else self.ends - self.clock()


@dataclass
class _Tried:
    """The result of one run in every fold.

    Attributes:
        run: its schedule, which stops at the best measurement.
        hits: as of `Finished`.
        loss: mean validation loss, in nats.
        states: weights of the best measurement, if the task is not folded.
    """

    run: Run
    hits: np.ndarray
    loss: float
    state: PortableModule | None

    @property
    def rank(self) -> tuple[float, float]:
        return float(self.hits.mean()), -self.loss

    @property
    def is_perfect(self) -> bool:
        return bool((self.hits == 1).all())


@dataclass
class _Curve:
    """Measurements of one run: of each, the validation samples that are right, and the loss."""

    at: list[int] = field(default_factory=list)
    right: list[np.ndarray] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    best: PortableModule | None = None


def finish(
    starts: Sequence[PortableModule],
    data: FinishData,
    *,
    rng_seed: int,
    last: int = 0,
    device: torch.device | None = None,
    budget: Budget | None = None,
    report: Callable[[float], None] = lambda _: None,
) -> Finished:
    """Train a network to convergence.

    Args:
        starts: the network with its first weights, in every fold.
        data: the samples.
        rng_seed: random seed of the order of the samples.
        last: the fold whose first weights the last run on all samples begins with.
        device: of the training.
        budget: time that it may take. If it has a limit, results depend on the machine's speed.
        report: receives the fraction that is done, 0 to 1.
    """
    trainer = _Trainer(starts, data, rng_seed, device or torch.device("cpu"))
    budget = budget or Budget()
    begin = budget.clock()
    length = _first_length(data)
    if budget.ends is not None:
        runs = len(LEARNING_RATES) + (1 if data.is_folded else 0)
        each = trainer.seconds_of_a_minibatch(budget.clock) * len(starts)
        length = max(_LEAST, min(length, int(budget.left / runs / each)))
    expected = length * (len(LEARNING_RATES) + 2)
    best: _Tried | None = None
    for rate in LEARNING_RATES:
        if best is not None and (budget.left <= 0 or best.is_perfect):
            break
        tried = trainer.run(Run(rate, length, length))
        best = tried if best is None or tried.rank > best.rank else best
        report(min(0.99, trainer.minibatches / len(starts) / expected))
    assert best is not None
    spent = budget.clock() - begin
    for _ in range(_DOUBLINGS):
        length *= 2
        # the four runs so far were twice as long together as the next one
        if best.is_perfect or budget.left < spent / 2:
            break
        tried = trainer.run(Run(best.run.rate, length, length))
        spent *= 2
        report(min(0.99, trainer.minibatches / len(starts) / expected))
        if tried.hits.mean() <= best.hits.mean():
            best = max(best, tried, key=lambda each: each.rank)
            break
        best = tried
    portable = best.state or trainer.refitted(best.run, last)
    logits = _logits(portable.module(), data.test.inputs).cpu()
    right = (logits.argmax(1) == data.test.labels.cpu()).double().mean()
    report(1.0)
    return Finished(
        portable,
        logits,
        best.hits,
        float(right),
        best.run,
        trainer.minibatches,
        budget.clock() - begin,
    )


def _first_length(data: FinishData) -> int:
    samples = len(data.divisions[0][0])
    minibatches = _PASSES * samples // fitting_batch(samples, BATCH)
    return min(max(minibatches, _SHORTEST), _LONGEST)


class _Trainer:
    """Makes runs of one network and counts their minibatches."""

    def __init__(
        self,
        starts: Sequence[PortableModule],
        data: FinishData,
        rng_seed: int,
        device: torch.device,
    ) -> None:
        self._starts, self._data, self._rng_seed, self._device = starts, data, rng_seed, device
        self.minibatches = 0

    def seconds_of_a_minibatch(self, clock: Callable[[], float]) -> float:
        """Return the time that a minibatch takes, measurements included."""
        run = Run(LEARNING_RATES[0], _TRIED, _TRIED)
        train, validation, _ = self._data.divisions[0]
        begin = clock()
        self._train(self._starts[0], train, validation, run, keeps_best=False)
        return max(1e-6, (clock() - begin) / _TRIED)

    def run(self, run: Run) -> _Tried:
        """Make a run in every fold."""
        data = self._data
        curves = [
            self._train(start, train, validation, run, keeps_best=not data.is_folded)
            for start, (train, validation, _) in zip(self._starts, data.divisions, strict=True)
        ]
        shortest = min(len(curve.at) for curve in curves)
        if shortest == 0:  # not finite from the first measurement on
            return _Tried(run, np.zeros(data.measured), math.inf, self._starts[0])
        hits = np.zeros((shortest, data.measured))
        loss = np.zeros(shortest)
        for curve, (_, _, rows) in zip(curves, data.divisions, strict=True):
            hits[:, rows] += np.stack(curve.right[:shortest]) / data.repeats
            loss += np.array(curve.loss[:shortest]) / len(curves)
        means = hits.mean(axis=1)
        best = max(range(shortest), key=lambda at: (means[at], -loss[at]))
        stop = replace(run, stop=curves[0].at[best])
        return _Tried(stop, hits[best], float(loss[best]), curves[0].best)

    def refitted(self, run: Run, fold: int) -> PortableModule:
        """Return the network of a run on all samples."""
        curve = self._train(self._starts[fold], self._data.whole, None, run, keeps_best=True)
        return curve.best or self._starts[fold]

    def _train(
        self,
        start: PortableModule,
        train: RawPart,
        validation: RawPart | None,
        run: Run,
        *,
        keeps_best: bool,
    ) -> _Curve:
        """Train one network; without a validation part, its last weights are the best."""
        network = start.module().to(self._device).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=run.rate)
        every = max(1, run.length // _MEASUREMENTS)
        curve, best = _Curve(), (-1.0, -math.inf)
        for number, (inputs, labels) in enumerate(self._minibatches(train, run.stop)):
            for group in optimizer.param_groups:
                group["lr"] = run.rate_at(number)
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
            self.minibatches += 1
            done = number + 1
            if validation is None or not (done % every == 0 or done == run.stop):
                continue
            right, loss = _measured(network, validation)
            if not math.isfinite(loss):
                break
            curve.at.append(done)
            curve.right.append(right)
            curve.loss.append(loss)
            rank = (float(right.mean()), -loss)
            if keeps_best and rank > best:
                best, curve.best = rank, start.with_weights(network)
        if validation is None:
            curve.best = start.with_weights(network)
        return curve

    def _minibatches(
        self, part: RawPart, count: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield minibatches, in another order in each pass; a remainder is left out."""
        generator = torch.Generator().manual_seed(self._rng_seed)
        batch = fitting_batch(len(part), BATCH)
        done = 0
        while True:
            order = torch.randperm(len(part), generator=generator)
            for index in order[: len(part) // batch * batch].split(batch):
                if done == count:
                    return
                done += 1
                inputs, labels = part.inputs[index], part.labels[index]
                yield inputs.to(self._device), labels.to(self._device)


def _measured(network: nn.Module, part: RawPart) -> tuple[np.ndarray, float]:
    """Return which samples a network gets right, and its mean loss, in evaluation mode."""
    network.eval()
    logits = _logits(network, part.inputs).cpu()
    network.train()
    labels = part.labels.cpu()
    right: np.ndarray = (logits.argmax(1) == labels).double().numpy()
    return right, float(F.cross_entropy(logits, labels))


@torch.no_grad()
def _logits(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)) for part in inputs.split(_CHUNK)])

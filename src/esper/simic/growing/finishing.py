"""Finishing: a network trains to convergence with a falling rate and early stopping.

All networks of a comparison are finished alike. A run begins at the given weights. Adam's rate
rises for a tenth of the run and then falls to 0. Each rate of `LEARNING_RATES` is tried in a run of
the first length, and the best by validation accuracy is tried in runs of twice the length until
that does not help. The weights of the best measurement within a run are kept. (Each run begins
again, because a rate that has fallen to 0 cannot be continued.)

Where a task is folded, a run is made in every fold, and validation figures are means over them.
Only the end of a run counts, where the rate is 0, because the last run, on all samples, has no
validation part to stop by. Its rate and length are the best in the folds.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from esper.growth.export.module_files import PortableModule
from esper.growth.hosts.minibatches import fitting_batch
from esper.growth.tasks.folds import Folds
from esper.growth.tasks.task import Split, Task
from esper.simic.environment import BATCH
from esper.simic.evaluation.tuning import LEARNING_RATES
from esper.simic.growing.module_training import Curve, RawPart, Run, logits_in_chunks, train_modules

#: Length of the first runs: passes over the training part, within limits of minibatches.
_PASSES, _SHORTEST, _LONGEST = 12, 300, 3000
#: Number of times that the length is doubled at most.
_DOUBLINGS = 3
#: Minibatches by which the time that a run takes is estimated, and of the shortest possible run.
_TRIED, _LEAST = 8, 20


@dataclass(frozen=True)
class FinishData:
    """The samples with which networks are finished.

    Attributes:
        whole: all samples of a folded task but those for test; the training part of others.
        trained: rows of `whole` that a network is trained on in each fold. Each `[m]`
        validation: validation part of each fold.
        rows: the samples of each validation part among all that are measured. Each `[n]`
        test: the test part.
        measured: number of samples that are in some validation part.
        repeats: how often each of them is.
    """

    whole: RawPart
    trained: tuple[torch.Tensor, ...]
    validation: tuple[RawPart, ...]
    rows: tuple[np.ndarray, ...]
    test: RawPart
    measured: int
    repeats: int

    @property
    def is_folded(self) -> bool:
        """Whether there are several divisions."""
        return len(self.trained) > 1


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
        is_cut_short: whether runs were shortened or left out because of the budget.
    """

    portable: PortableModule
    logits: torch.Tensor
    hits: np.ndarray
    test_accuracy: float
    run: Run
    minibatches: int
    seconds: float
    is_cut_short: bool = False

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
    return FinishData(
        whole=raw_part(task, folds.whole),
        trained=tuple(torch.from_numpy(rows) for rows in folds.trained),
        validation=tuple(raw_part(each, each.validation) for each in folds.tasks),
        rows=folds.rows,
        test=raw_part(task, task.test),
        measured=len(folds.whole) if len(folds.tasks) > 1 else len(task.validation),
        repeats=folds.repeats,
    )


def raw_part(task: Task, split: Split) -> RawPart:
    """Return a part of a task in the form that a standalone network takes."""
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
        best: the network at the best measurement, if the task is not folded.
    """

    run: Run
    hits: np.ndarray
    loss: float
    best: PortableModule | None

    @property
    def rank(self) -> tuple[float, float]:
        return float(self.hits.mean()), -self.loss

    @property
    def is_perfect(self) -> bool:
        return bool((self.hits == 1).all())


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
    budget = budget or Budget()
    begin = budget.clock()
    runs = _Runs(starts, data, rng_seed, device or torch.device("cpu"), report)
    length = _first_length(data)
    if budget.ends is not None:
        each = runs.seconds_of_a_minibatch(budget.clock)
        # half of the time is left for a longer run, or for the last one
        length = max(_LEAST, min(length, int(budget.left / 2 / each)))
    is_cut_short = length < _first_length(data)
    best = max(runs.tried(LEARNING_RATES, length), key=lambda tried: tried.rank)
    spent = budget.clock() - begin
    for _ in range(_DOUBLINGS):
        length *= 2
        # one rate at twice the length takes at most half as long as four did
        if best.is_perfect:
            break
        if budget.left < spent:
            is_cut_short = True
            break
        (tried,) = runs.tried([best.run.rate], length)
        spent *= 2
        if tried.hits.mean() <= best.hits.mean():
            best = max(best, tried, key=lambda each: each.rank)
            break
        best = tried
    portable = runs.refitted(best.run, last) if data.is_folded else best.best or starts[0]
    with torch.no_grad():
        logits = logits_in_chunks(portable.module(), data.test.inputs)
    right = (logits.argmax(1) == data.test.labels.cpu()).double().mean()
    report(1.0)
    return Finished(
        portable,
        logits,
        best.hits,
        float(right),
        best.run,
        runs.minibatches,
        budget.clock() - begin,
        is_cut_short,
    )


def _first_length(data: FinishData) -> int:
    samples = len(data.trained[0])
    minibatches = _PASSES * samples // fitting_batch(samples, BATCH)
    return min(max(minibatches, _SHORTEST), _LONGEST)


class _Runs:
    """Makes runs of one network in every fold, and counts their minibatches."""

    def __init__(
        self,
        starts: Sequence[PortableModule],
        data: FinishData,
        rng_seed: int,
        device: torch.device,
        report: Callable[[float], None],
    ) -> None:
        self._starts, self._data, self._rng_seed, self._device = starts, data, rng_seed, device
        self._report = report
        self.minibatches = 0
        self._done = 0.0

    def seconds_of_a_minibatch(self, clock: Callable[[], float]) -> float:
        """Return the time that a minibatch of all first runs takes."""
        begin = clock()
        self._curves(LEARNING_RATES, _TRIED, counts=False)
        return max(1e-6, (clock() - begin) / _TRIED)

    def tried(self, rates: Sequence[float], length: int) -> list[_Tried]:
        """Return the result of a run at each rate."""
        curves = self._curves(rates, length, counts=True)
        folds = len(self._starts)
        return [
            self._pooled(Run(rate, length, length), curves[at * folds : (at + 1) * folds])
            for at, rate in enumerate(rates)
        ]

    def refitted(self, run: Run, fold: int) -> PortableModule:
        """Return the network of a run on all samples, from the first weights in a fold."""
        whole = self._data.whole
        (curve,) = train_modules(
            [self._starts[fold]],
            whole,
            [torch.arange(len(whole))],
            None,
            [run],
            rng_seed=self._rng_seed,
            device=self._device,
        )
        self.minibatches += run.stop
        return curve.best or self._starts[fold]

    def _curves(self, rates: Sequence[float], length: int, *, counts: bool) -> list[Curve]:
        """Return the curve of a run at each rate in each fold, rate by rate."""
        data, folds = self._data, len(self._starts)
        copies = [(rate, fold) for rate in rates for fold in range(folds)]
        curves: dict[tuple[float, int], Curve] = {}
        sources = list(dict.fromkeys(start.source for start in self._starts))
        begin = self._done
        for number, source in enumerate(sources):  # copies in lockstep have one architecture
            alike = [each for each in copies if self._starts[each[1]].source == source]

            def on_minibatch(done: int, number: int = number) -> None:
                # the first runs are taken for half of what is left, and so is each further one
                share = (number + done / length) / len(sources)
                self._done = begin + (1 - begin) / 2 * share
                self._report(self._done)

            trained = train_modules(
                [self._starts[fold] for _, fold in alike],
                data.whole,
                [data.trained[fold] for _, fold in alike],
                [data.validation[fold] for _, fold in alike],
                [Run(rate, length, length) for rate, _ in alike],
                rng_seed=self._rng_seed,
                device=self._device,
                keeps_best=not data.is_folded,
                on_minibatch=on_minibatch if counts else lambda _: None,
            )
            curves |= dict(zip(alike, trained, strict=True))
        self.minibatches += length * len(copies) * counts
        return [curves[each] for each in copies]

    def _pooled(self, run: Run, curves: Sequence[Curve]) -> _Tried:
        """Return the best measurement of a run, by the mean over its folds."""
        data = self._data
        shortest = min(len(curve.at) for curve in curves)
        if shortest == 0:  # not finite from the first measurement on
            return _Tried(run, np.zeros(data.measured), math.inf, self._starts[0])
        hits = np.zeros((shortest, data.measured))
        loss = np.zeros(shortest)
        for curve, rows in zip(curves, data.rows, strict=True):
            hits[:, rows] += np.stack(curve.right[:shortest]) / data.repeats
            loss += np.array(curve.loss[:shortest]) / len(curves)
        means = hits.mean(axis=1)
        possible = [shortest - 1] if data.is_folded else range(shortest)
        best = max(possible, key=lambda at: (means[at], -loss[at]))
        stop = Run(run.rate, run.length, curves[0].at[best])
        return _Tried(stop, hits[best], float(loss[best]), curves[0].best)

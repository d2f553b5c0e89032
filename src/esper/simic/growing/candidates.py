"""Finished networks that can be written, and the choice among them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from esper.growth.export.module_files import PortableModule
from esper.simic.growing.finishing import Finished
from esper.simic.requests import GrowingError, Limits

#: Difference of accuracies that is nothing but rounding.
_ROUNDING: Final = 1e-9
Kind = Literal["grown", "host", "scratch", "plain"]
#: Each kind of network in words.
NAMES: Final[dict[Kind, str]] = {
    "grown": "the grown network",
    "host": "the same host without growth",
    "scratch": "the grown architecture, trained from scratch",
    "plain": "a plain network of similar size",
}


@dataclass(frozen=True)
class Size:
    """What a network costs when it is used.

    Attributes:
        parameters: number of parameters.
        bytes: bytes of its weights and buffers.
        multiply_adds: of its forward pass of one sample: matrix products, convolutions, attention.
    """

    parameters: int
    bytes: int
    multiply_adds: int

    def excess(self, limits: Limits) -> str:
        """Return the limit that is exceeded, in words; empty if none is."""
        for name, unit in (
            ("parameters", "parameters"),
            ("bytes", "bytes"),
            ("multiply_adds", "multiply-adds"),
        ):
            most = getattr(limits, name)
            if most is not None and getattr(self, name) > most:
                return f"{getattr(self, name):,} {unit}, more than {most:,}"
        return ""


@dataclass(frozen=True)
class Candidate:
    """A finished network.

    Attributes:
        kind: which of the compared networks it is.
        about: its architecture in words; empty if its kind says it.
        size: what it costs.
        finished: the network and its accuracies.
        seconds: of all its training, growing included.
        excess: the limit that it exceeds, in words; empty if it can be written.
    """

    kind: Kind
    about: str
    size: Size
    finished: Finished
    seconds: float
    excess: str

    def score(self, price: float, host_parameters: int) -> float:
        """Return the validation accuracy less the price of the parameters."""
        doublings = math.log2(self.size.parameters / host_parameters)
        return self.finished.validation_accuracy - price * doublings


def size_of(portable: PortableModule, sample: torch.Tensor) -> Size:
    """Return what a network costs.

    Args:
        portable: the network.
        sample: one raw sample, `[1, ...]`.
    """
    counter = FlopCounterMode(display=False)
    network = portable.module()
    with counter, torch.no_grad():
        network(sample)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Size(parameters, portable.bytes, counter.get_total_flops() // 2)


def choose(
    candidates: Sequence[Candidate], limits: Limits, host_parameters: int
) -> tuple[Candidate, str]:
    """Return the network to write, and which it is and why, in words.

    It is the smallest whose score is within one standard error of the best (Breiman et al. 1984,
    "Classification and regression trees"). The standard error is that of the difference, over the
    validation samples, because all networks are measured on the same.

    Args:
        candidates: the finished networks; at least one is within all limits.
        limits: with the price of parameters.
        host_parameters: those of the ungrown host.

    Raises:
        GrowingError: no network that is within the limits is finite.
    """
    possible = [each for each in candidates if not each.excess and each.finished.is_finite]
    if not possible:
        raise GrowingError(
            "no finished network can be written: each exceeds a limit, or has NaN or Inf in its "
            "logits; raise the limit or try another --seed"
        )

    def score(candidate: Candidate) -> float:
        return candidate.score(limits.price, host_parameters)

    best = max(possible, key=lambda each: (score(each), -each.size.parameters))
    as_good = [
        each
        for each in possible
        if each.size.parameters < best.size.parameters
        and score(best) - score(each) <= _standard_error(best, each) + _ROUNDING
    ]
    if not as_good:
        return best, f"{NAMES[best.kind]}, the best in validation{_of(limits)}"
    chosen = min(as_good, key=lambda each: (each.size.parameters, -score(each)))
    gap = best.finished.validation_accuracy - chosen.finished.validation_accuracy
    if gap <= 0:
        return chosen, (
            f"{NAMES[chosen.kind]}, which is at least as good in validation as {NAMES[best.kind]} "
            f"with {best.size.parameters:,} parameters"
        )
    return chosen, (
        f"{NAMES[chosen.kind]}. {NAMES[best.kind].capitalize()} is better in validation by "
        f"{gap:.3f}, which is within the noise (one standard error is "
        f"{_standard_error(best, chosen):.3f}), and has {best.size.parameters:,} parameters "
        f"instead of {chosen.size.parameters:,}"
    )


def _of(limits: Limits) -> str:
    return f" at a price of {limits.price:g} for each doubling of parameters" * (limits.price > 0)


def _standard_error(first: Candidate, second: Candidate) -> float:
    """Return that of the difference between two mean accuracies on the same samples."""
    difference = first.finished.hits - second.finished.hits
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return float(error)

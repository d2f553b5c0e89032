"""Ways to compute the same thing with gradients: compared, then timed in turn."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Processor seconds that one measurement takes at least.
_LEAST = 0.004

Work = Callable[[], Sequence[Tensor]]
Layout = Callable[[Tensor], Tensor]


@dataclass
class Way:
    """One way to compute a part.

    Attributes:
        name: of the way.
        work: returns the result and its gradients.
        first_call: seconds of the first call, which compiles; None if nothing is compiled.
        times: seconds of one call, by round.
    """

    name: str
    work: Work
    first_call: float | None = None
    times: list[float] = field(default_factory=list)


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


class Part:
    """A part, with the ways to compute it; the first is Esper's.

    Args:
        name: of the part.
        ours: Esper's way.
        compiled: whether to measure `torch.compile` of each other way, too.
        results: how many tensors it computes, before their gradients.
    """

    def __init__(self, name: str, ours: Work, *, compiled: bool, results: int = 1) -> None:
        self.name = name
        self._compiled = compiled
        self._in_layout = results + 1
        self.ways = [Way("Esper", ours)]

    def add(
        self,
        name: str,
        function: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: Sequence[Tensor],
        gradient: Tensor | tuple[Tensor, ...],
        to_ours: Layout = unchanged,
    ) -> None:
        """Add a library way: a function, differentiated by autograd.

        Args:
            name: of the way.
            function: takes the inputs.
            inputs: features and parameters, all of them differentiated.
            gradient: of the result.
            to_ours: brings result and features into Esper's layout, to be compared.
        """
        eager = by_autograd(function, inputs, gradient)
        self._check(name, eager(), to_ours)
        self.ways.append(Way(name, eager))
        if self._compiled:
            torch.compiler.reset()
            compiled = by_autograd(torch.compile(function, dynamic=False), inputs, gradient)
            start = time.perf_counter()
            result = compiled()
            seconds = time.perf_counter() - start
            self._check(f"{name}, compiled", result, to_ours)
            self.ways.append(Way(f"{name}, compiled", compiled, seconds))

    def _check(self, name: str, found: Sequence[Tensor], to_ours: Layout) -> None:
        wanted = self.ways[0].work()
        for number, (ours, theirs) in enumerate(zip(wanted, found, strict=True)):
            theirs = to_ours(theirs) if number < self._in_layout else theirs
            scale = ours.abs().max().clamp(min=1e-3)
            difference = ((ours - theirs.reshape(ours.shape)).abs().max() / scale).item()
            if not difference < 1e-4:
                raise SystemExit(f"{self.name}, {name}: output {number} differs by {difference}")

    def measure(self, rounds: int) -> None:
        """Time all ways in turn, in another order in each round."""
        calls = {way.name: max(1, round(_LEAST / seconds(way.work, 2))) for way in self.ways}
        for _ in range(rounds):
            for way in random.sample(self.ways, len(self.ways)):
                way.times.append(seconds(way.work, calls[way.name]))

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table."""
        ours = self.ways[0].times
        return [
            (
                self.name if way is self.ways[0] else "",
                way.name,
                f"{1000 * statistics.median(way.times):.3f}",
                f"{statistics.median(t / o for t, o in zip(way.times, ours, strict=True)):.2f}",
                "" if way.first_call is None else f"{way.first_call:.1f}",
            )
            for way in self.ways
        ]


def seconds(work: Work, calls: int) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls


def by_autograd(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    gradient: Tensor | tuple[Tensor, ...],
) -> Work:
    """Return the work of computing a function and the gradients of all its inputs.

    Args:
        function: takes the inputs.
        inputs: features and parameters.
        gradient: of each result.
    """
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]

    def work() -> Sequence[Tensor]:
        results = function(*inputs)
        gradients = torch.autograd.grad(results, inputs, gradient)
        results = results if isinstance(results, tuple) else (results,)
        return *(result.detach() for result in results), *gradients

    return work

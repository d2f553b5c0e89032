"""An unwatched run, and whether anything in it was not finite, by looking at everything."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from watched_loops.stage import Stage


@dataclass
class Run:
    """State at the end of a run.

    Attributes:
        state: state of the models, the optimizers and the random number generators.
        error: text of the exception that ended the run; empty if there was none.
        exception: this exception.
        is_broken: whether any output, gradient or weight was not finite; None if not checked.
    """

    state: Any
    error: str
    exception: BaseException | None
    is_broken: bool | None = None


@dataclass
class _Looker:
    is_broken: bool = False
    handles: list[Any] = field(default_factory=list)

    def attach(self, model: nn.Module) -> None:
        for module in model.modules():
            self.handles.append(module.register_forward_hook(self._output))
        for parameter in model.parameters():
            if parameter.requires_grad:
                self.handles.append(parameter.register_hook(self._gradient))

    def _output(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            self._look(output)

    def _gradient(self, gradient: Tensor) -> None:
        self._look(gradient)

    def _look(self, values: Tensor) -> None:
        self.is_broken = self.is_broken or not bool(values.detach().isfinite().all())


def run(stage: Stage, train: Callable[[Stage], object], *, looks: bool = False) -> Run:
    """Run a training to its end.

    Args:
        stage: the training.
        train: runs it.
        looks: whether to check every output and gradient.
    """
    looker = _Looker()
    if looks:
        looker.attach(stage.model)
    exception: BaseException | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(stage)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - libraries refuse NaN
        exception = error
    for handle in looker.handles:
        handle.remove()
    is_broken = looker.is_broken or not weights_are_finite(stage) or not _moments_are_finite(stage)
    state = {
        "model": stage.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in stage.optimizers],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
    }
    error = "" if exception is None else f"{type(exception).__name__}: {exception}"
    return Run(copy.deepcopy(state), error, exception, is_broken if looks else None)


def weights_are_finite(stage: Stage) -> bool:
    """Return whether all weights are finite."""
    return all(bool(parameter.isfinite().all()) for parameter in stage.model.parameters())


def _moments_are_finite(stage: Stage) -> bool:
    return all(
        bool(value.isfinite().all())
        for optimizer in stage.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )


def difference(one: Any, other: Any, path: str = "") -> str:
    """Return where two states differ, bit for bit; empty if they do not."""
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return f"{path} has other keys"
        parts = [difference(one[key], other[key], f"{path}/{key}") for key in one]
        return next(filter(None, parts), "")
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return f"{path} has another length"
        parts = [
            difference(a, b, f"{path}/{n}") for n, (a, b) in enumerate(zip(one, other, strict=True))
        ]
        return next(filter(None, parts), "")
    if isinstance(one, Tensor):
        return "" if _is_same(one, other) else path
    if isinstance(one, np.ndarray):
        return "" if np.array_equal(one, other) else path
    is_same = one == other or (one != one and other != other)
    return "" if is_same else f"{path}: {one!r} and {other!r}"


def _is_same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())

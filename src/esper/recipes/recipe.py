"""Recipes: how to watch and repeat the objects of another library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from esper.leyline.errors import EsperError
from esper.watching.finding.repeating.repeater import Repeater


class RecipeError(EsperError, ValueError):
    """An object of a known library must be watched in another way; the message says how."""


@dataclass(frozen=True)
class Rebuilding:
    """The data needed to repeat an update of a library in another process.

    Attributes:
        rebuilder: name of the method, known to `esper.rerunning`; empty if it cannot be repeated.
        plan: plain values: class paths and settings.
        data: tensors that the update learns from, by name.
        reason: sentence that says why it cannot be repeated.
    """

    rebuilder: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Subject:
    """The watched parts of a training.

    Attributes:
        models: trained models, without target networks.
        optimizers: optimizers of these models; empty: all optimizers of the process are watched.
        heads: as `heads` of `esper.watch`.
        output_layer: layer that computes the logits or means of the heads with columns; None: it
            is found automatically.
        library: name of the library's distribution.
        task: name of the task, such as the environment's id; empty if unknown.
        seed: random seed of the training; None if unknown.
        config: settings of the training, stored with the run.
        update_method: object and name of the method whose call is one update; None: updates are
            found by the change from acting to learning, or are reported.
        groups: further parts by name, as `groups` of `esper.watch`.
        figures: returns the library's figures of the update that just ended, by name.
        figures_of_result: returns the figures in the return value of the update method.
        runs_again: whether the lines of the training loop may be repeated.
        rebuilding_of: returns the data needed to repeat the current update, or, if its argument is
            "acting", the current choice of actions; None: they cannot be repeated elsewhere.
        why_not_rebuilt: sentence that says why they cannot be repeated elsewhere.
        inputs: returns the arrays or tensors from which the tensors of an update are computed, by
            name, such as rewards; called only after something was not finite.
        repeater: repeats a minibatch if the lines of the training loop must not be repeated.
        reports_steps: whether the integration calls `Watch.before_step` and `Watch.after_step`, so
            the optimizers need no hooks.
    """

    models: Sequence[nn.Module]
    optimizers: Sequence[torch.optim.Optimizer] = ()
    heads: Any = None
    output_layer: nn.Module | None = None
    library: str = "torch"
    task: str = ""
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    update_method: tuple[object, str] | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    figures: Callable[[], Mapping[str, float]] = dict
    figures_of_result: Callable[[Any], Mapping[str, float]] = lambda _: {}
    runs_again: bool = True
    inputs: Callable[[], Mapping[str, Any]] = dict
    repeater: Repeater | None = None
    reports_steps: bool = False
    rebuilding_of: Callable[[str], Rebuilding] | None = None
    why_not_rebuilt: str = "Esper rebuilds no training loop of this kind"


@dataclass(frozen=True)
class Recipe:
    """One library.

    Attributes:
        package: top-level package in which the classes of its objects are defined.
        subject_of: returns the watched parts of an object; None if it cannot be watched.
    """

    package: str
    subject_of: Callable[[Any], Subject | None]


def last_linear(module: Any) -> nn.Linear | None:
    """Return the last linear layer in a module; None if there is none, or it is not a module."""
    modules = module.modules() if isinstance(module, nn.Module) else ()
    layers = [layer for layer in modules if isinstance(layer, nn.Linear)]
    return layers[-1] if layers else None

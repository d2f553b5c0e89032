"""What a recipe says of an object of another library."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from esper.leyline.errors import EsperError
from esper.watching.finding.repeater import Repeater


class RecipeError(EsperError, ValueError):
    """An object of a known library is watched in another way; the message says how."""


@dataclass(frozen=True)
class Rebuilding:
    """What is needed to repeat an update of a library in another process.

    Attributes:
        rebuilder: how, a name that `esper.rerunning` knows; empty where it cannot be repeated.
        plan: plain values: class paths and settings.
        data: tensors that the update learns from, by name.
        reason: why it cannot be repeated, a sentence.
    """

    rebuilder: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Subject:
    """What is watched.

    Attributes:
        models: that are trained, without target networks.
        optimizers: of these models; empty: all optimizers of the process are looked at.
        heads: as `heads` of `esper.watch`.
        output_layer: that computes the logits or means of the heads with columns; None: it is
            found.
        library: name of the library's distribution.
        task: what is trained, such as the environment's id; empty if unknown.
        seed: of the random number generators; None if unknown.
        config: settings of the training, for the record.
        update_method: object and name of the method whose call is one update; None: updates are
            found by the change from acting to learning, or are reported.
        groups: further parts by name, as `groups` of `esper.watch`.
        figures: returns what the library measured in the update that just ended, by name.
        figures_of_result: returns the figures in what the update method returned.
        runs_again: whether its training loop may be run again.
        rebuilding_of: returns what is needed to repeat the current update, or, if it is given
            "acting", the current choice of actions; None: neither can be repeated elsewhere.
        why_not_rebuilt: the reason for that, a sentence.
        inputs: returns arrays or tensors that an update's own tensors are computed from, by name,
            such as rewards; looked at only where something is not finite.
        repeater: computes a minibatch again where the loop must not be run.
        reports_steps: whether `Watch.before_step` and `Watch.after_step` are called, and so the
            optimizers need no hooks.
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
        subject_of: returns what is watched of an object; None if the object is not one that can be
            watched.
    """

    package: str
    subject_of: Callable[[Any], Subject | None]

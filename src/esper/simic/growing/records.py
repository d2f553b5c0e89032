"""What growing returns: the networks that were compared, and how the written one came about."""

from dataclasses import dataclass

import numpy as np
import torch

from esper.growth.export.module_files import PortableModule
from esper.growth.from_scratch import Architecture
from esper.growth.hosts.finished import FinishedNetwork
from esper.growth.hosts.seeds import Transition
from esper.growth.tasks.task import Task
from esper.simic.growing.candidates import Candidate, Kind
from esper.simic.requests import Limits
from esper.simic.training.trained_policy import TrainedPolicy


@dataclass(frozen=True)
class Moment:
    """One network after one step.

    Attributes:
        accuracy: validation accuracy, including everything that is blended in.
        stage, alpha, blueprint: state of each slot. `[S]`
        happened: transitions of its seeds in this step.
    """

    accuracy: float
    stage: np.ndarray
    alpha: np.ndarray
    blueprint: np.ndarray
    happened: tuple[Transition, ...]


@dataclass(frozen=True)
class Measured:
    """The result of training a network for the steps of an episode.

    Attributes:
        parameters: number of parameters.
        validation_accuracy, test_accuracy: accuracy on those parts of the task.
        multiply_adds: cost of its training, see `esper.growth.hosts.training_cost`.
    """

    parameters: int
    validation_accuracy: float
    test_accuracy: float
    multiply_adds: float


@dataclass(frozen=True)
class Recorded:
    """What a policy saw and did in one host, step by step.

    Attributes:
        observations: `[T, F]`, float32.
        masks: choices that were legal under some op. `[T, total]`, bool
        slot_masks: slots that each op could act on. `[T, ops, S]`, bool
        actions: a choice of each head. `[T, H]`
    """

    observations: np.ndarray
    masks: np.ndarray
    slot_masks: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class Episode:
    """The best of the networks that grew together, on one division of the data.

    Attributes:
        network: the network.
        initial: its host before the first step.
        logits: its logits on the test part, `[n, classes]`.
        architecture: its architecture.
        host: its number among those that grew together.
        rng_seeds: random seed of each of them.
        result: its result.
        rivals: validation accuracy of each of them; 0 for those that are not finite. `[N]`
        moments: its state before the first step and after each step.
        recorded: what the policy saw and did in it.
        seconds: of growing them.
    """

    network: FinishedNetwork
    initial: FinishedNetwork
    logits: torch.Tensor
    architecture: Architecture
    host: int
    rng_seeds: tuple[int, ...]
    result: Measured
    rivals: np.ndarray
    moments: tuple[Moment, ...]
    recorded: Recorded
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Finished networks, and which of them is written.

    Attributes:
        candidates: the grown network and its opponents.
        chosen: the one that is written.
        reason: which network that is and why, in words.
        folds, repeats: number of folds, 1 if the task is not folded, and how often they are drawn.
        grown_alike: in how many of all folds the architecture of the grown network grew.
    """

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    reason: str
    folds: int
    repeats: int
    grown_alike: int


@dataclass(frozen=True)
class Grown:
    """The network that is written, the network that a policy grew, and the others.

    Attributes:
        policy: the policy.
        task: the task.
        rng_seed: the random seed.
        steps, samples: steps of the episode; training samples in a step.
        limits: what the network may cost.
        portable: the network that is written.
        logits: its logits on the test part, as computed before writing. `[n, classes]`
        episode: how the grown network came about. In a folded task it is that of one fold.
        without_growth: result of the same host on the same data without growth.
        idle_accuracy: validation accuracy of that host, as in `moments`.
        from_scratch: result of the same architecture, trained from the first step.
        comparison: finished networks; None if nothing is finished.
        decisions: what the policy decided and why, in lines of Markdown.
        notes: sentences about limits that had an effect.
    """

    policy: TrainedPolicy
    task: Task
    rng_seed: int
    steps: int
    samples: int
    limits: Limits
    portable: PortableModule
    logits: torch.Tensor
    episode: Episode
    without_growth: Measured
    idle_accuracy: tuple[float, ...]
    from_scratch: Measured
    comparison: Comparison | None
    decisions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> FinishedNetwork:
        """The grown network before it was finished."""
        return self.episode.network

    @property
    def host(self) -> int:
        """Its number among all networks that grew together."""
        return self.episode.host

    @property
    def result(self) -> Measured:
        """Its result when growing ended."""
        return self.episode.result

    @property
    def rivals(self) -> np.ndarray:
        """Validation accuracy of every network that grew together with it."""
        return self.episode.rivals

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Its state before the first step and after each step."""
        return self.episode.moments

    @property
    def written(self) -> Kind:
        """Which network is written."""
        return "grown" if self.comparison is None else self.comparison.chosen.kind

"""Contestants of an evaluation: the agent and its opponents, with their costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esper.growth.environment.reward import final_score
from esper.growth.from_scratch import Trained
from esper.simic.evaluation.arena import Arena, Played, Player
from esper.simic.evaluation.outcomes import Outcomes


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Attributes:
        name: a name of `esper.simic.evaluation.baseline_names.BASELINES`, or `agent`.
        strata: its results: one, or one for each evaluated policy.
        candidates: the results of all candidates, itself included.
        resized: results of smaller and larger networks of its kind, for the size frontier.
        search_multiply_adds: spent beforehand on training a policy or on choosing among
            candidates; the evaluated networks themselves are not part of it. For several policies,
            their mean.
    """

    name: str
    strata: tuple[Outcomes, ...]
    candidates: tuple[Outcomes, ...] = ()
    resized: tuple[Outcomes, ...] = ()
    search_multiply_adds: float = 0.0


@dataclass(frozen=True)
class Agents:
    """The evaluated policies, with the figures that their opponents need.

    Attributes:
        players: each policy as a player.
        played: their results.
        training_episodes: episodes that each was trained with.
        search_episodes: episodes of the agent whose cost a search may spend; None takes as many
            as the agent was trained with.
    """

    players: Sequence[Player]
    played: Sequence[Played]
    training_episodes: Sequence[int]
    search_episodes: int | None = None

    @property
    def parameters(self) -> float:
        """Median number of parameters of the finished networks."""
        return float(np.median([each.outcomes.parameters for each in self.played]))

    @property
    def multiply_adds(self) -> float:
        """Mean multiply-adds of training one network."""
        return float(np.mean([each.outcomes.multiply_adds for each in self.played]))

    @property
    def training_multiply_adds(self) -> float:
        """Multiply-adds of training one policy, at the mean cost of its evaluated networks."""
        return float(np.mean(self.training_episodes)) * self.multiply_adds

    @property
    def search_budget(self) -> float:
        """Multiply-adds that a search may spend."""
        if self.search_episodes is None:
            return self.training_multiply_adds
        return self.search_episodes * self.multiply_adds


def whole(parts: Sequence[Trained]) -> Trained:
    """Return the results of all networks from those of several parts."""
    names = ("validation_accuracy", "test_accuracy", "parameters", "multiply_adds")
    return Trained(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def scored(arena: Arena, what: str, trained: Trained) -> Outcomes:
    """Return the results of networks that were trained without an environment."""
    env = arena.settings
    added_ratio = trained.parameters / env.host_parameters - 1
    return Outcomes(
        what,
        test_accuracy=trained.test_accuracy,
        validation_accuracy=trained.validation_accuracy,
        score=final_score(trained.validation_accuracy, added_ratio, env.reward_settings),
        parameters=trained.parameters,
        multiply_adds=trained.multiply_adds,
    )

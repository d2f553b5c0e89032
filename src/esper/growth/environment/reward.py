"""The reward: a potential on accuracy, a rent on added parameters, and a final score.

Each term is also returned separately, under these names:

| term      | each step                                   | meaning                            |
|-----------|---------------------------------------------|------------------------------------|
| potential | γ φ(s') - φ(s), φ = w · validation accuracy | rewards progress when it is made   |
| rent      | - r · added parameters / host parameters    | cost of added parameters           |
| score     | the final score, at the last step alone     | the objective                      |

The potential term (Ng, Harada and Russell 1999) does not change the optimal policy: over an episode
of n steps, discounted by γ, it adds up to γⁿ φ(last) - φ(first), and the state after the last step
has the potential 0, so all that remains is -φ(first), which no policy can change.

The final score is the validation accuracy of the network with its FOSSILIZED seeds alone, less a
price for their parameters. Seeds that are only blended at the end are taken out for it;
otherwise no policy would have a reason to fossilize.
"""

from dataclasses import dataclass

import numpy as np

from esper.leyline.errors import EsperError

#: The terms of a reward, in the order in which they are added.
REWARD_TERMS = ("potential", "rent", "score")


class RewardSettingsError(EsperError, ValueError):
    """A setting of the reward is out of range."""


@dataclass(frozen=True)
class RewardSettings:
    """Weights of the terms.

    Attributes:
        discount: γ; must be that of the agent, or the potential changes its objective.
        potential: w, the potential of an accuracy of 1.
        rent: r, for each step, per added parameters over those of the host.
        price: subtracted from the final score, per fossilized parameters over those of the host.

    Raises:
        RewardSettingsError: the discount is outside (0, 1], or another setting is negative.
    """

    discount: float = 1.0
    potential: float = 1.0
    rent: float = 0.0001
    price: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 < self.discount <= 1.0:
            raise RewardSettingsError(
                f"the reward's discount is {self.discount}: it must be above 0 and at most 1"
            )
        for name in ("potential", "rent", "price"):
            if not getattr(self, name) >= 0.0:
                raise RewardSettingsError(
                    f"the reward's {name} is {getattr(self, name)}: it must not be negative"
                )


def final_score(
    accuracy: np.ndarray, fossilized_ratio: np.ndarray, settings: RewardSettings
) -> np.ndarray:
    """Return the score of finished networks. `[N]`

    Args:
        accuracy: on the validation part, with FOSSILIZED seeds alone. `[N]`
        fossilized_ratio: their parameters over the host's. `[N]`
        settings: of the reward.
    """
    return accuracy - settings.price * fossilized_ratio


def reward_terms(
    before: np.ndarray,
    after: np.ndarray,
    added_ratio: np.ndarray,
    ended: np.ndarray,
    score: np.ndarray,
    settings: RewardSettings,
) -> dict[str, np.ndarray]:
    """Return the terms of one step's reward, each `[N]`; the reward is their sum.

    Args:
        before, after: validation accuracy before and after the step. `[N]`
        added_ratio: parameters of all seeds over the host's. `[N]`
        ended: whether the step was the last of the episode. `[N]`, bool
        score: the final score where the episode ended; ignored elsewhere. `[N]`
        settings: of the reward.
    """
    reached = np.where(ended, 0.0, after)
    return {
        "potential": settings.potential * (settings.discount * reached - before),
        "rent": -settings.rent * added_ratio,
        "score": np.where(ended, score, 0.0),
    }

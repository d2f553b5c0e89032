"""The learning rate of an update."""

from typing import Final

from esper.simic.config import TrainingConfig

#: The learning rate decays to this fraction of its initial value.
FINAL_LEARNING_RATE: Final = 0.01


def learning_rate_after(episodes: int, config: TrainingConfig) -> float:
    """Return the learning rate of the update after a number of episodes.

    It does not depend on the total number of episodes of the run, so that a run that is given more
    of them continues unchanged.
    """
    left = 1 - episodes / config.anneal_episodes
    return config.learning_rate * max(left, FINAL_LEARNING_RATE)

"""Where a host's random numbers come from: its own seed, a purpose, and a count.

Numbers are drawn from generators made on the spot, never from one that is passed around, so what a
host draws depends on nothing but its own seed and its own history.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What numbers are drawn for; draws for one purpose do not shift those for another."""

    EPISODE = 0  # the seed of each episode of an environment
    HOST = 1  # first parameters of a host
    SEED = 2  # first parameters of a seed
    DATA = 3  # order of the training data


def generator(seed: int, stream: Stream, *counts: int) -> np.random.Generator:
    """Return the generator of a seed's stream at the given counts (NumPy's SeedSequence)."""
    return np.random.default_rng([seed, stream, *counts])


def episode_seed(base: int, episode: int) -> int:
    """Return the seed of an environment's episode, counted from 0 since it was seeded."""
    return int(generator(base, Stream.EPISODE, episode).integers(2**63))

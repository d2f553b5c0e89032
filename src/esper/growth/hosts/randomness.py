"""Random numbers of hosts: each draw depends on a random seed, a purpose and counts.

Each draw uses a separate generator, so it depends only on the host's random seed and the host's own
history.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Purpose of random numbers; draws for one purpose do not shift those for another."""

    EPISODE = 0  # random seed of each episode of an environment
    HOST = 1  # first parameters of a host
    SEED = 2  # first parameters of a seed
    DATA = 3  # order of the training data


def generator(rng_seed: int, stream: Stream, *counts: int) -> np.random.Generator:
    """Return the generator of a stream at the given counts (NumPy's SeedSequence)."""
    return np.random.default_rng([rng_seed, stream, *counts])


def episode_rng_seed(base: int, episode: int) -> int:
    """Return the random seed of an episode, counted from 0 since the environment's seeding."""
    return int(generator(base, Stream.EPISODE, episode).integers(2**63))

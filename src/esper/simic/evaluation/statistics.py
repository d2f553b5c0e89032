"""Statistics of few runs: interquartile mean, mean and probability of improvement, with intervals.

After Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep reinforcement learning at the edge
of the statistical precipice" (2021): 95 % percentile intervals of a bootstrap that resamples
training runs within each task, as `StratifiedBootstrap` of their library rliable does. There is one
task here. rliable takes one score for each run, a mean over its episodes; here the episodes are
resampled, too, because all runs play the same few, and their first weights and order of data
matter. Runs and episodes are drawn independently of each other, with replacement, and every drawn
run is taken with every drawn episode (Owen 2007, "The pigeonhole bootstrap"): the interval then
holds for another training run in another episode. With a single run it cannot, and holds for other
episodes of that run alone.

A stratum is the results of one training run in all episodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, trim_mean

from esper.leyline.errors import EsperError

#: Bootstrap samples for an interval.
RESAMPLES = 4000
#: Number of bootstrap samples computed at a time.
_BATCH = 500

Strata = Sequence[np.ndarray]


class TooFewEpisodesError(EsperError, ValueError):
    """An interval needs at least two episodes."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean without the lowest and the highest quarter of the values."""
    middle: np.ndarray = trim_mean(values, 0.25, axis=axis)
    return middle


def improvement(ours: np.ndarray, theirs: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the probability that one of `ours` is above one of `theirs`; a tie counts half.

    This is the Mann-Whitney U statistic divided by the number of pairs, computed from ranks.
    Leading axes are batches.
    """
    ours, theirs = np.moveaxis(ours, axis, -1), np.moveaxis(theirs, axis, -1)
    own, other = ours.shape[-1], theirs.shape[-1]
    ranks = rankdata(np.concatenate([ours, theirs], axis=-1), axis=-1)
    pairs_won = ranks[..., :own].sum(axis=-1) - own * (own + 1) / 2
    probability: np.ndarray = pairs_won / (own * other)
    return probability


def mean_estimate(strata: Strata, generator: np.random.Generator) -> Estimate:
    """Return the mean of all values.

    Args:
        strata: values of each training run, all of one length. `[E]` each
        generator: draws the bootstrap samples.

    Raises:
        TooFewEpisodesError: there are fewer than two episodes.
    """
    return _of_all(strata, lambda values: values.mean(axis=-1), generator)


def iqm_estimate(strata: Strata, generator: np.random.Generator) -> Estimate:
    """Return the interquartile mean of all values; arguments and errors as for `mean_estimate`."""
    return _of_all(strata, interquartile_mean, generator)


def improvement_estimate(ours: Strata, theirs: Strata, generator: np.random.Generator) -> Estimate:
    """Return the probability that a value of ours is above one of theirs.

    The mean over our training runs is returned. Episodes of both sides are drawn separately.

    Args:
        ours: values of each of our training runs, all of one length. `[E]` each
        theirs: as many strata, each of which belongs to the corresponding run of ours, is compared
            with it and drawn with it; or a single one, compared with every run.
        generator: draws the bootstrap samples.

    Raises:
        TooFewEpisodesError: there are fewer than two episodes.
    """
    own, other = np.stack(ours), np.stack(theirs)

    def probability(own: np.ndarray, other: np.ndarray) -> np.ndarray:
        shape = (*own.shape[:-1], other.shape[-1])
        result: np.ndarray = improvement(own, np.broadcast_to(other, shape)).mean(axis=-1)
        return result

    def sample(count: int) -> np.ndarray:
        runs = _draw(generator, count, len(own))
        theirs_of = runs if len(other) > 1 else np.zeros((count, 1), dtype=np.int64)
        episodes = (_draw(generator, count, side.shape[1]) for side in (own, other))
        return probability(
            _crossed(own, runs, next(episodes)), _crossed(other, theirs_of, next(episodes))
        )

    return _estimate(float(probability(own, other)), sample, min(own.shape[1], other.shape[1]))


def paired_improvement_estimate(
    ours: Strata, theirs: Strata, generator: np.random.Generator
) -> Estimate:
    """Return the probability that a value of ours is above the one of theirs at the same index.

    What both share at an index (the first weights and the order of data) cancels out.

    Args:
        ours: values of each of our training runs, all of one length. `[E]` each
        theirs: as many strata, or a single one, as for `improvement_estimate`.
        generator: draws the bootstrap samples.

    Raises:
        TooFewEpisodesError: there are fewer than two episodes.
    """
    own, other = np.stack(ours), np.stack(theirs)  # [runs, E], [runs or 1, E]
    won: np.ndarray = (own > other) + 0.5 * (own == other)
    return mean_estimate(list(won), generator)


def _of_all(
    strata: Strata,
    statistic: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
) -> Estimate:
    """Return a statistic `[..., n]` -> `[...]` of the values of all runs together."""
    values = np.stack(strata)

    def sample(count: int) -> np.ndarray:
        runs = _draw(generator, count, len(values))
        drawn = _crossed(values, runs, _draw(generator, count, values.shape[1]))
        return statistic(drawn.reshape(count, -1))

    return _estimate(float(statistic(values.reshape(-1))), sample, values.shape[1])


def _draw(generator: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Draw `count` times as many numbers below `size`, with replacement. `[count, size]`"""
    return generator.integers(size, size=(count, size))


def _crossed(values: np.ndarray, runs: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """Return the values `[R, E]` of drawn runs in drawn episodes, for each sample. `[B, R, E]`"""
    crossed: np.ndarray = values[runs[:, :, None], episodes[:, None, :]]
    return crossed


def _estimate(value: float, sample: Callable[[int], np.ndarray], episodes: int) -> Estimate:
    """Return a figure with the interval of its bootstrap samples.

    Args:
        value: the figure.
        sample: returns so many bootstrap samples of it.
        episodes: number of episodes.
    """
    if episodes < 2:
        raise TooFewEpisodesError("an interval needs at least 2 episodes")
    samples = np.concatenate([sample(_BATCH) for _ in range(RESAMPLES // _BATCH)])
    low, high = np.percentile(samples, [2.5, 97.5])
    return Estimate(value, float(low), float(high))

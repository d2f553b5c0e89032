"""Statistics of few runs: interquartile mean, mean and probability of improvement, with intervals.

After Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep reinforcement learning at the edge
of the statistical precipice" (2021): percentile intervals of a *stratified* bootstrap, which
resamples within each stratum. A stratum is the results of one policy in all episodes; several
training runs are several strata.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, rankdata, trim_mean

from esper.leyline.errors import EsperError

#: Bootstrap samples for an interval.
RESAMPLES = 4000
#: Number of bootstrap samples computed at a time.
_BATCH = 500

Strata = Sequence[np.ndarray]


class TooFewEpisodesError(EsperError, ValueError):
    """An interval needs at least two values in each stratum."""


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
        strata: values, each `[n]`.
        generator: draws the bootstrap samples.

    Raises:
        TooFewEpisodesError: a stratum has fewer than two values.
    """

    def mean(*samples: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate(samples, axis=axis).mean(axis=axis)

    return _estimate(strata, mean, generator)


def iqm_estimate(strata: Strata, generator: np.random.Generator) -> Estimate:
    """Return the interquartile mean of all values; arguments and errors as for `mean_estimate`."""

    def middle(*samples: np.ndarray, axis: int) -> np.ndarray:
        return interquartile_mean(np.concatenate(samples, axis=axis), axis=axis)

    return _estimate(strata, middle, generator)


def improvement_estimate(ours: Strata, theirs: Strata, generator: np.random.Generator) -> Estimate:
    """Return the probability that a value of ours is above one of theirs.

    Args:
        ours: values, a stratum for each policy.
        theirs: as many strata, each compared with the corresponding one of ours; or a single one,
            compared with every stratum of ours. The mean over our strata is returned.
        generator: draws the bootstrap samples.

    Raises:
        TooFewEpisodesError: a stratum has fewer than two values.
    """
    count = len(ours)

    def probability(*samples: np.ndarray, axis: int) -> np.ndarray:
        rivals = samples[count:] * (count if len(theirs) == 1 else 1)
        pairs = zip(samples[:count], rivals, strict=True)
        return np.mean([improvement(*pair, axis=axis) for pair in pairs], axis=0)

    return _estimate([*ours, *theirs], probability, generator)


def paired_improvement_estimate(
    ours: Strata, theirs: Strata, generator: np.random.Generator
) -> Estimate:
    """Return the probability that a value of ours is above the one of theirs at the same index.

    What both share at an index (the first weights and the order of data) cancels out. The bootstrap
    resamples indices, each with the values of all strata, because these are not independent.

    Args:
        ours: values, a stratum for each policy, all of one length.
        theirs: as many strata, or a single one, as for `improvement_estimate`.
        generator: draws the bootstrap samples.

    Raises:
        TooFewEpisodesError: a stratum has fewer than two values.
    """
    own, other = np.stack(ours), np.stack(theirs)  # [strata, n]
    won: np.ndarray = ((own > other) + 0.5 * (own == other)).mean(axis=0)
    return mean_estimate([won], generator)


def _estimate(
    strata: Strata, statistic: Callable[..., np.ndarray], generator: np.random.Generator
) -> Estimate:
    if min(len(stratum) for stratum in strata) < 2:
        raise TooFewEpisodesError("an interval needs at least 2 episodes")
    result = bootstrap(
        tuple(strata),
        statistic,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        method="percentile",
        rng=generator,
    )
    low, high = result.confidence_interval
    return Estimate(float(statistic(*strata, axis=-1)), float(low), float(high))

"""Statistics against their definitions, written out slowly."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.simic.evaluation import statistics
from esper.simic.evaluation.statistics import (
    TooFewEpisodesError,
    improvement,
    improvement_estimate,
    interquartile_mean,
    iqm_estimate,
    mean_estimate,
    paired_improvement_estimate,
)

values = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=12).map(np.array)


def generator() -> np.random.Generator:
    return np.random.default_rng(5)


@given(values, values)
def test_improvement_is_the_share_of_pairs_won_with_ties_counting_half(
    ours: np.ndarray, theirs: np.ndarray
) -> None:
    won = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in ours for y in theirs)
    assert improvement(ours, theirs) == pytest.approx(won / (len(ours) * len(theirs)))
    assert improvement(theirs, ours) == pytest.approx(1 - improvement(ours, theirs))


def test_improvement_works_along_any_axis_and_keeps_batches_apart() -> None:
    ours, theirs = generator().normal(size=(4, 7)), generator().normal(size=(4, 9)) + 0.3
    rows = [improvement(x, y) for x, y in zip(ours, theirs, strict=True)]
    np.testing.assert_allclose(improvement(ours, theirs), rows)
    np.testing.assert_allclose(improvement(ours.T, theirs.T, axis=0), rows)


@given(values)
def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end(sample: np.ndarray) -> None:
    cut = len(sample) // 4
    middle = sorted(sample)[cut : len(sample) - cut]
    assert interquartile_mean(sample) == pytest.approx(sum(middle) / len(middle))


def slow_interval(statistic: Callable[[np.random.Generator], float]) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap, drawn one sample at a time."""
    random = np.random.default_rng(17)
    low, high = np.percentile([statistic(random) for _ in range(4000)], [2.5, 97.5])
    return float(low), float(high)


def crossed(random: np.random.Generator, runs: list[np.ndarray]) -> list[np.ndarray]:
    """Draw runs, and the same episodes for all of them."""
    drawn = [runs[random.integers(len(runs))] for _ in runs]
    episodes = random.integers(len(runs[0]), size=len(runs[0]))
    return [run[episodes] for run in drawn]


def test_intervals_resample_training_runs_and_episodes() -> None:
    luck = generator().normal(size=30)
    runs = [luck + shift + 0.1 * generator().normal(size=30) for shift in (0.0, 1.0, 1.5)]
    for estimate, statistic in (
        (mean_estimate(runs, generator()), np.mean),
        (iqm_estimate(runs, generator()), interquartile_mean),
    ):
        low, high = slow_interval(
            lambda random, of=statistic: float(of(np.concatenate(crossed(random, runs))))
        )
        assert estimate.value == pytest.approx(statistic(np.concatenate(runs)))
        assert estimate.low == pytest.approx(low, abs=0.05)
        assert estimate.high == pytest.approx(high, abs=0.05)
        assert estimate.low < estimate.value < estimate.high


def test_the_variance_between_training_runs_is_in_the_interval() -> None:
    """Runs of constant results differ, so that only a drawing of runs gives an interval."""
    runs = [np.full(50, value) for value in (0.1, 0.5, 0.9)]
    estimate = mean_estimate(runs, generator())
    assert (estimate.low, estimate.high) == pytest.approx((0.1, 0.9))
    alone = mean_estimate(runs[:1], generator())
    assert (alone.low, alone.high) == pytest.approx((0.1, 0.1))
    better = improvement_estimate(runs, [np.full(50, 0.4)], generator())
    assert better.value == pytest.approx(2 / 3)
    assert (better.low, better.high) == (0, 1)
    alike = paired_improvement_estimate(runs, [np.full(50, 0.4)], generator())
    assert alike == better
    own = [run - 0.05 for run in runs]  # of each run, drawn with it
    assert improvement_estimate(runs, own, generator()).low == 1
    assert paired_improvement_estimate(runs, own, generator()).low == 1


def test_every_run_of_ours_is_set_against_its_own_rival_or_the_only_one() -> None:
    ours = [generator().normal(size=20), np.random.default_rng(8).normal(size=20) + 1]
    rival = np.random.default_rng(9).normal(size=30)
    alone = improvement_estimate(ours, [rival], generator())
    assert alone.value == pytest.approx(np.mean([improvement(own, rival) for own in ours]))

    def slow(random: np.random.Generator) -> float:
        other = random.choice(rival, len(rival))
        return float(np.mean([improvement(own, other) for own in crossed(random, ours)]))

    low, high = slow_interval(slow)
    assert alone.low == pytest.approx(low, abs=0.02)
    assert alone.high == pytest.approx(high, abs=0.02)
    paired = improvement_estimate(ours, [ours[0], rival[:20]], generator())
    assert paired.value == pytest.approx((0.5 + improvement(ours[1], rival[:20])) / 2)


def test_a_common_effect_cancels_out_in_paired_improvement() -> None:
    luck = 10 * generator().normal(size=50)
    ours = [luck + 1 + generator().normal(size=50) * 0.1]
    apart = improvement_estimate(ours, [luck], generator())
    same = paired_improvement_estimate(ours, [luck], generator())
    assert (same.value, same.low) == (1, 1)
    assert apart.value < 0.7


def test_paired_improvement_and_its_interval_resample_pairs() -> None:
    draw = np.random.default_rng(4).normal
    ours, theirs = draw(size=(2, 200)), draw(size=(2, 200)) - 0.2
    won = [
        np.array([1.0 if x > y else 0.5 if x == y else 0.0 for x, y in zip(*pair, strict=True)])
        for pair in zip(ours, theirs, strict=True)
    ]
    estimate = paired_improvement_estimate(list(ours), list(theirs), generator())
    assert estimate.value == pytest.approx(np.mean(won))
    low, high = slow_interval(lambda random: float(np.mean(crossed(random, won))))
    assert estimate.low == pytest.approx(low, abs=0.03)
    assert estimate.high == pytest.approx(high, abs=0.03)


def test_always_better_has_probability_1() -> None:
    estimate = improvement_estimate([np.arange(9) + 10.0], [np.arange(9.0)], generator())
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)


@pytest.mark.slow
def test_an_interval_holds_the_truth_nineteen_times_out_of_twenty() -> None:
    random, held = np.random.default_rng(3), 0
    trials = 300
    for _ in range(trials):
        ours, theirs = random.normal(size=64), random.normal(size=64)
        estimate = improvement_estimate([ours], [theirs], random)
        held += estimate.low <= 0.5 <= estimate.high
    assert 0.90 <= held / trials <= 0.99


def test_the_same_generator_gives_the_same_interval() -> None:
    sample = [generator().normal(size=10)]
    assert iqm_estimate(sample, generator()) == iqm_estimate(sample, generator())
    assert statistics.RESAMPLES >= 1000


def test_one_value_has_no_interval() -> None:
    with pytest.raises(TooFewEpisodesError, match="at least 2"):
        mean_estimate([np.ones(1), np.ones(1)], generator())

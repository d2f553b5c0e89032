"""Statistics against their definitions, written out slowly."""

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


def slow_interval(strata: list[np.ndarray], statistic: object) -> tuple[float, float]:
    """Return the percentile interval of a stratified bootstrap, drawn one sample at a time."""
    random = np.random.default_rng(17)
    drawn = [
        statistic([random.choice(stratum, len(stratum)) for stratum in strata]) for _ in range(4000)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def test_intervals_are_those_of_a_stratified_bootstrap() -> None:
    # Strata far apart: drawing across them would make every interval several times as wide.
    strata = [generator().normal(size=40), 10 + generator().normal(size=30)]
    for estimate, statistic in (
        (mean_estimate(strata, generator()), lambda parts: np.concatenate(parts).mean()),
        (
            iqm_estimate(strata, generator()),
            lambda parts: interquartile_mean(np.concatenate(parts)),
        ),
    ):
        low, high = slow_interval(strata, statistic)
        assert estimate.value == pytest.approx(statistic(strata))
        assert estimate.low == pytest.approx(low, abs=0.05)
        assert estimate.high == pytest.approx(high, abs=0.05)
        assert estimate.low < estimate.value < estimate.high


def test_every_stratum_of_ours_is_set_against_its_own_rival_or_the_only_one() -> None:
    ours = [generator().normal(size=20), generator().normal(size=25) + 1]
    rival = generator().normal(size=30)
    alone = improvement_estimate(ours, [rival], generator())
    assert alone.value == pytest.approx(np.mean([improvement(own, rival) for own in ours]))
    low, high = slow_interval(
        [*ours, rival], lambda parts: np.mean([improvement(own, parts[2]) for own in parts[:2]])
    )
    assert alone.low == pytest.approx(low, abs=0.02)
    assert alone.high == pytest.approx(high, abs=0.02)
    paired = improvement_estimate(ours, [ours[0], rival], generator())
    assert paired.value == pytest.approx((0.5 + improvement(ours[1], rival)) / 2)


def test_a_common_effect_cancels_out_in_paired_improvement() -> None:
    luck = 10 * generator().normal(size=50)
    ours = [luck + 1 + generator().normal(size=50) * 0.1, luck - 1]
    rival = luck.copy()
    estimate = paired_improvement_estimate(ours, [rival], generator())
    assert estimate.value == pytest.approx(0.5)
    assert (estimate.low, estimate.high) == (0.5, 0.5), "each place has one won and one lost"
    apart = improvement_estimate(ours[:1], [rival], generator())
    same = paired_improvement_estimate(ours[:1], [rival], generator())
    assert (same.value, same.low) == (1, 1)
    assert apart.value < 0.7


def test_paired_improvement_and_its_interval_resample_pairs() -> None:
    ours = [generator().normal(size=30), generator().permutation(30) / 9.0]
    theirs = [generator().permutation(30) / 9.0 - 1.5, np.zeros(30)]
    won = np.mean(
        [
            [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in zip(own, other, strict=True)]
            for own, other in zip(ours, theirs, strict=True)
        ],
        axis=0,
    )
    estimate = paired_improvement_estimate(ours, theirs, generator())
    assert estimate.value == pytest.approx(won.mean())
    low, high = slow_interval([won], lambda parts: parts[0].mean())
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
        mean_estimate([np.ones(5), np.ones(1)], generator())

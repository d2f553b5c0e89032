"""The reward: its potential telescopes, its rent is paid, its score comes once."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.growth.environment.reward import (
    REWARD_TERMS,
    RewardSettings,
    RewardSettingsError,
    final_score,
    reward_terms,
)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=30),
    st.floats(0.5, 1.0),
    st.floats(0, 5),
)
def test_potential_adds_up_to_nothing_a_policy_can_change(
    accuracies: list[float], discount: float, weight: float
) -> None:
    settings = RewardSettings(discount=discount, potential=weight)
    last = len(accuracies) - 2
    total = 0.0
    for step, (before, after) in enumerate(itertools.pairwise(accuracies)):
        terms = reward_terms(
            np.array([before]),
            np.array([after]),
            np.zeros(1),
            np.array([step == last]),
            np.zeros(1),
            settings,
        )
        total += discount**step * terms["potential"][0]
    assert total == pytest.approx(-weight * accuracies[0], abs=1e-12)


def test_terms_are_what_their_table_says() -> None:
    settings = RewardSettings(discount=0.9, potential=2.0, rent=0.1, price=0.5)
    terms = reward_terms(
        before=np.array([0.2, 0.4]),
        after=np.array([0.3, 0.5]),
        added_ratio=np.array([0.0, 0.5]),
        ended=np.array([False, True]),
        score=np.array([123.0, 0.45]),
        settings=settings,
    )
    assert tuple(terms) == REWARD_TERMS
    np.testing.assert_allclose(terms["potential"], [2 * (0.9 * 0.3 - 0.2), -2 * 0.4])
    np.testing.assert_allclose(terms["rent"], [0.0, -0.05])
    np.testing.assert_allclose(terms["score"], [0.0, 0.45])


def test_final_score_is_accuracy_less_the_price_of_what_was_kept() -> None:
    scores = final_score(np.array([0.6, 0.6]), np.array([0.0, 0.5]), RewardSettings(price=0.02))
    np.testing.assert_allclose(scores, [0.6, 0.59])


@pytest.mark.parametrize(
    "setting", [{"discount": 0.0}, {"discount": 1.1}, {"rent": -1.0}, {"price": float("nan")}]
)
def test_senseless_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(RewardSettingsError, match=next(iter(setting))):
        RewardSettings(**setting)

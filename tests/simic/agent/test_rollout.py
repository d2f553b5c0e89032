"""Advantages against a loop over time, host by host."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline.heads import HEAD_SIZES
from esper.simic.agent.ppo import generalized_advantages
from esper.simic.agent.rollout import Rollout, minus_siblings

GAMMA, LAMBDA = 0.97, 0.9


def rollout_of(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
) -> Rollout:
    steps, hosts = rewards.shape
    return Rollout(
        observations=torch.zeros(steps, hosts, 1),
        actions=torch.zeros(steps, hosts, 8, dtype=torch.int64),
        masks=torch.ones(steps, hosts, sum(HEAD_SIZES), dtype=torch.bool),
        active=torch.ones(steps, hosts, 8, dtype=torch.bool),
        values=values,
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        next_values=next_values,
        initial_state=(torch.zeros(1, hosts, 1), torch.zeros(1, hosts, 1)),
    )


def slow_advantages(rollout: Rollout) -> torch.Tensor:
    """Sum the discounted deltas of each step up to the end of its episode."""
    advantages = torch.zeros_like(rollout.rewards)
    for host in range(rollout.hosts):
        for start in range(rollout.steps):
            total, weight = 0.0, 1.0
            for step in range(start, rollout.steps):
                future = rollout.next_values[step, host].item()
                if rollout.terminated[step, host]:
                    future = 0.0
                delta = rollout.rewards[step, host].item() + GAMMA * future
                total += weight * (delta - rollout.values[step, host].item())
                weight *= GAMMA * LAMBDA
                if rollout.terminated[step, host] or rollout.truncated[step, host]:
                    break
            advantages[start, host] = total
    return advantages


@given(
    steps=st.integers(1, 7), hosts=st.integers(1, 3), ends=st.floats(0, 1), seed=st.integers(0, 999)
)
def test_advantages_equal_the_slow_sum(steps: int, hosts: int, ends: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal() -> torch.Tensor:
        return torch.randn(steps, hosts, generator=random, dtype=torch.float64)

    def often() -> torch.Tensor:
        return torch.rand(steps, hosts, generator=random) < ends / 2

    rollout = rollout_of(normal(), normal(), normal(), often(), often())
    advantages, returns = generalized_advantages(rollout, GAMMA, LAMBDA)
    torch.testing.assert_close(advantages, slow_advantages(rollout))
    torch.testing.assert_close(returns, advantages + rollout.values)


def test_a_cut_off_episode_is_worth_its_last_observation_and_an_ended_one_is_not() -> None:
    one, no = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.bool)
    worth = torch.full((1, 1), 5.0)
    cut_off, _ = generalized_advantages(rollout_of(one, one, worth, no, ~no), GAMMA, LAMBDA)
    ended, _ = generalized_advantages(rollout_of(one, one, worth, ~no, no), GAMMA, LAMBDA)
    assert cut_off.item() == pytest.approx(GAMMA * 5.0)
    assert ended.item() == 0.0


def test_nothing_non_finite_passes_an_ending() -> None:
    rewards = torch.tensor([[1.0], [torch.inf]])
    zeros, no = torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    ended = torch.tensor([[True], [False]])
    rollout = rollout_of(rewards, zeros, torch.full((2, 1), torch.nan), ended, no)
    advantages, _ = generalized_advantages(rollout, GAMMA, LAMBDA)
    assert advantages[0].item() == 1.0


@given(steps=st.integers(1, 4), hosts=st.integers(1, 9), siblings=st.integers(1, 5))
def test_siblings_are_each_others_baseline(steps: int, hosts: int, siblings: int) -> None:
    advantages = torch.randn(steps, hosts, generator=torch.Generator().manual_seed(hosts))
    found = minus_siblings(advantages, siblings)
    for host in range(hosts):
        family = range(host - host % siblings, min(host - host % siblings + siblings, hosts))
        others = [advantages[:, other] for other in family if other != host]
        baseline = torch.stack(others).mean(0) if others else torch.zeros(steps)
        torch.testing.assert_close(found[:, host], advantages[:, host] - baseline)


def test_luck_of_birth_cancels_among_siblings() -> None:
    earned = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    luck = torch.tensor([7.0, -2.0]).repeat_interleave(4)
    torch.testing.assert_close(minus_siblings(earned + luck, 4), minus_siblings(earned, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_with_its_host(value: float) -> None:
    advantages = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    others = minus_siblings(advantages[:, 1:], 3)
    advantages[1, 0] = value
    found = minus_siblings(advantages, 4)
    torch.testing.assert_close(found[1, 0], torch.tensor(value), equal_nan=True)
    torch.testing.assert_close(found[1, 1:], others[1])
    assert found[[0, 2]].isfinite().all()

"""Cost of detection: one PPO update without it, with ours, and with the common alternatives.

All variants alternate in one process on the same rollout. Each is reported as the median of its
ratios to an update without detection beside it, with a 95 % bootstrap interval. That interval is
wider than the cost of ours, so its parts are also timed inside an update, as a share of the rest of
the same update, where noise affects both alike.

    uv run python benchmarks/update_overhead.py [--rounds 30] [--sizes small large]
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmark_output import rounds_of
from scipy.stats import bootstrap
from torch import Tensor

from esper.leyline.heads import HEAD_SIZES, Op
from esper.simic.agent import figures, ppo
from esper.simic.agent.detection.finite_check import FiniteCheck
from esper.simic.agent.learning_state import LearningState
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout, RolloutBuffer
from esper.simic.config import TrainingConfig
from esper.tamiyo.policy import RecurrentPolicy

OBSERVATION_SIZE = 83


@dataclass(frozen=True)
class Size:
    hosts: int
    steps: int
    feature_size: int
    lstm_size: int


SIZES = {
    "small": Size(hosts=16, steps=24, feature_size=64, lstm_size=64),
    "middle": Size(hosts=64, steps=24, feature_size=128, lstm_size=128),
    "large": Size(hosts=128, steps=64, feature_size=512, lstm_size=512),
}


class CommonWatch(FiniteCheck):
    """One `isfinite().all()` per head and tensor, as it is usually written."""

    def __init__(self, agent: PPOAgent) -> None:
        super().__init__(agent.loss_scale)
        self._agent = agent

    def forward(self, _index: int, _batch: Minibatch, terms: MinibatchTerms) -> Tensor:
        bad = False
        logits = terms.output.logits.detach().split(HEAD_SIZES, dim=-1)
        for head, raw in enumerate(logits):
            bad |= not raw.isfinite().all().item()
            for values in (terms.log_probs, terms.ratios, terms.entropies):
                bad |= not values.detach()[..., head].isfinite().all().item()
        for value in (terms.policy_loss, terms.value_loss, terms.entropy_loss):
            bad |= not value.detach().isfinite().all().item()
        return torch.tensor(bad)

    def derivable(self, _terms: MinibatchTerms) -> tuple[()]:
        return ()

    def backward(
        self,
        _index: int,
        gradient: Tensor,
        _derivatives: Sequence[Tensor | None],
        _once: Tensor,
    ) -> Tensor:
        bad = False
        for part in self._agent.parameters.split(gradient):
            bad |= not part.isfinite().all().item()
        return torch.tensor(torch.nan if bad else 0.0)


class NoCheck(FiniteCheck):
    """Takes every step."""

    def __init__(self, loss_scale: LossScale) -> None:
        super().__init__(loss_scale)
        self._no_alarm = torch.zeros((), dtype=torch.float64)

    def derivable(self, _terms: MinibatchTerms) -> tuple[()]:
        return ()

    def backward(self, *_: object) -> Tensor:
        return self._no_alarm


def agent_of(size: Size) -> PPOAgent:
    """Return an agent whose updates never stop early, so that all variants do the same work."""
    torch.manual_seed(0)
    config = TrainingConfig(target_kl=0.0, learning_rate=1e-5)
    policy = RecurrentPolicy(
        OBSERVATION_SIZE, feature_size=size.feature_size, lstm_size=size.lstm_size
    )
    return PPOAgent(policy, config, rng_seed=0)


def rollout_of(agent: PPOAgent, size: Size) -> Rollout:
    """Return a rollout of random observations."""
    state = agent.policy.initial_state(size.hosts)
    buffer = RolloutBuffer(state)
    no = torch.zeros(size.hosts, dtype=torch.bool)
    mask = torch.ones(size.hosts, sum(HEAD_SIZES), dtype=torch.bool)
    slots = torch.ones(size.hosts, len(Op), HEAD_SIZES[0], dtype=torch.bool)
    for _ in range(size.steps):
        observations = torch.randn(size.hosts, OBSERVATION_SIZE)
        decision = agent.act(observations, mask, slots, state)
        state = decision.state
        buffer.add(observations, decision, torch.randn(size.hosts), no, no, torch.zeros(size.hosts))
    return buffer.rollout(torch.zeros(size.hosts))


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of `work`, which other processes affect least."""
    start = time.process_time()
    work()
    return time.process_time() - start


def timed(part: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Return `part`, with the seconds of each call appended to `spent`."""

    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = part(*arguments)
        spent.append(time.perf_counter() - start)
        return result

    return call


@contextmanager
def timed_parts(spent: list[float]) -> Iterator[None]:
    """Append to `spent` the seconds of each call of a part of detection."""
    with ExitStack() as exits:
        for owner, name in (
            (LearningState, "keep"),
            (LearningState, "figures"),
            (ppo, "output_sum"),
            (figures, "silent_sum"),
            (FiniteCheck, "forward"),
            (FiniteCheck, "derivable"),
            (FiniteCheck, "backward"),
        ):
            exits.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), spent)))
        yield


def shares_of_parts(size: Size, rounds: int) -> list[float]:
    """Return for each update the time of detection divided by that of the rest."""
    agent = agent_of(size)
    rollout = rollout_of(agent, size)
    agent.update(rollout)
    shares = []
    for _ in range(rounds):
        spent: list[float] = []
        with timed_parts(spent):
            start = time.perf_counter()
            agent.update(rollout)
            whole = time.perf_counter() - start
        for_nothing: list[float] = []
        nothing = timed(lambda _argument: None, for_nothing)
        for _ in spent:
            nothing(agent)
        own = sum(spent) - sum(for_nothing)
        shares.append(own / (whole - sum(spent)))
    return shares


@contextmanager
def without_detection(agent: PPOAgent) -> Iterator[None]:
    """Remove detection from updates."""
    nothing, no_state = torch.zeros(()), torch.zeros(8)
    with ExitStack() as exits:
        for owner, name, value in (
            (agent.state, "keep", lambda: None),
            (agent.state, "figures", lambda: no_state),
            (ppo, "output_sum", lambda _outputs: nothing),
            (figures, "silent_sum", lambda terms: torch.zeros(len(terms))),
            (figures.Figures, "is_suspicious", False),
        ):
            exits.enter_context(mock.patch.object(owner, name, value))
        yield


def measure(size: Size, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return the seconds of each variant, and its ratios to the plain update beside it."""
    agent = agent_of(size)
    rollout = rollout_of(agent, size)
    ours_check, no_check = agent.finite_check, NoCheck(agent.loss_scale)
    common = CommonWatch(agent)

    def update(
        check: FiniteCheck, context: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        agent.finite_check = check
        with context(), without_detection(agent):
            agent.update(rollout)

    def ours() -> None:
        agent.finite_check = ours_check
        agent.update(rollout)

    variants: dict[str, Callable[[], object]] = {
        "none, again (noise)": lambda: update(no_check),
        "ours": ours,
        "isfinite per head and tensor": lambda: update(common),
        "detect_anomaly": lambda: update(no_check, _anomaly),
    }
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in variants}
    plain = variants["none, again (noise)"]
    plain()
    for turn in range(rounds):
        for name, variant in variants.items():
            # Whoever goes second profits from warm caches: so they take turns at it.
            if turn % 2:
                base, own = seconds(plain), seconds(variant)
            else:
                own, base = seconds(variant), seconds(plain)
            results[name][0].append(own)
            results[name][1].append(own / base)
    return results


def _anomaly() -> AbstractContextManager[object]:
    return torch.autograd.detect_anomaly(check_nan=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=rounds_of, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.sizes:
        size = SIZES[name]
        rounds = options.rounds if name != "large" else max(options.rounds // 5, 3)
        print(f"{name}: {size}, {rounds} rounds, {options.threads} threads")
        for variant, (own, ratios) in measure(size, rounds).items():
            interval = bootstrap((np.array(ratios),), np.median, rng=0).confidence_interval
            print(
                f"  {variant:30} {1000 * np.median(own):9.1f} ms   "
                f"{np.median(ratios):.3f} of none  [{interval.low:.3f}, {interval.high:.3f}]"
            )
        shares = np.array(shares_of_parts(size, rounds))
        interval = bootstrap((1 + shares,), np.median, rng=0).confidence_interval
        print(
            f"  {'ours, its parts timed inside':30} {'':12}   "
            f"{1 + np.median(shares):.4f} of rest [{interval.low:.4f}, {interval.high:.4f}]"
        )


if __name__ == "__main__":
    main()

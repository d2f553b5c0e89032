"""Cost of detection: one PPO update without it, with ours, and with the common alternatives.

Each variant alternates with an update without detection, in one process on the same rollout.
Where a process happens to place its tensors in memory changes the ratio of two variants by up to
2 %, in all its rounds alike. So the measurement is repeated in several processes: reported are the
median of their median ratios and a 95 % bootstrap interval over the processes. The parts of our
detection are also timed inside an update, as a share of the rest of the same update.

    uv run python benchmarks/update_overhead.py [--rounds 20] [--processes 9] [--sizes small large]
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmark_output import in_processes, interval_of, line_of, rounds_of
from torch import Tensor

from esper.leyline.heads import HEAD_SIZES, Op
from esper.simic.agent import figures
from esper.simic.agent.detection.finite_check import FiniteCheck
from esper.simic.agent.learning_state import LearningState
from esper.simic.agent.loss_scale import LossScale
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout, RolloutBuffer
from esper.simic.config import TrainingConfig
from esper.tamiyo.policy import RecurrentPolicy

OBSERVATION_SIZE = 83

#: Prepares an update, returns it, and cleans up; only the update itself is timed.
Variant = Callable[[], AbstractContextManager[Callable[[], object]]]


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
        _excess: Tensor,
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


def seconds(variant: Variant) -> float:
    """Return the processor time of a variant's update, which other processes affect least."""
    with variant() as work:
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
            (figures, "silent_sums"),
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
    no_state = torch.zeros(5)
    with ExitStack() as exits:
        for owner, name, value in (
            (agent.state, "keep", lambda: None),
            (agent.state, "figures", lambda: no_state),
            (figures, "silent_sums", lambda outputs: torch.zeros(len(outputs))),
            (figures.Figures, "is_suspicious", False),
        ):
            exits.enter_context(mock.patch.object(owner, name, value))
        yield


def measure(size: Size, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return the seconds of each variant, and its ratios to the plain update measured with it."""
    agent = agent_of(size)
    rollout = rollout_of(agent, size)
    ours_check, no_check = agent.finite_check, NoCheck(agent.loss_scale)
    common = CommonWatch(agent)

    @contextmanager
    def update(check: FiniteCheck, *contexts: AbstractContextManager[object]) -> Iterator[Any]:
        agent.finite_check = check
        with ExitStack() as exits:
            for context in contexts:
                exits.enter_context(context)
            yield lambda: agent.update(rollout)

    def none() -> AbstractContextManager[object]:
        return without_detection(agent)

    variants: dict[str, Variant] = {
        "none, again (noise)": lambda: update(no_check, none()),
        "ours": lambda: update(ours_check),
        "isfinite per head and tensor": lambda: update(common, none()),
        "detect_anomaly": lambda: update(no_check, none(), _anomaly()),
    }
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in variants}
    plain = variants["none, again (noise)"]
    seconds(plain)
    for name, variant in variants.items():  # one by one: what one leaves in memory slows others
        seconds(variant)
        for turn in range(rounds):
            # The second of two profits from warm caches, so they take turns.
            if turn % 2:
                base, own = seconds(plain), seconds(variant)
            else:
                own, base = seconds(variant), seconds(plain)
            results[name][0].append(own)
            results[name][1].append(own / base)
    return results


def _anomaly() -> AbstractContextManager[object]:
    return torch.autograd.detect_anomaly(check_nan=True)


def in_a_process(name: str, rounds: int, threads: int) -> tuple[dict[str, list[float]], float]:
    """Return the median milliseconds and ratio of each variant, and the share of ours' parts."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
    medians = {
        variant: [1000 * float(np.median(own)), float(np.median(ratios))]
        for variant, (own, ratios) in measure(SIZES[name], rounds).items()
    }
    return medians, float(np.median(shares_of_parts(SIZES[name], rounds)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=rounds_of, default=20, help="rounds in each process")
    parser.add_argument("--processes", type=rounds_of, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    for name in options.sizes:
        rounds = options.rounds if name != "large" else max(options.rounds // 5, 3)
        print(
            f"{name}: {SIZES[name]}, {options.processes} processes of {rounds} rounds, "
            f"{options.threads} threads"
        )
        results = in_processes(options.processes, in_a_process, name, rounds, options.threads)
        for variant in results[0][0]:
            print(line_of(variant, *np.array([medians[variant] for medians, _ in results]).T))
        parts = np.array([1 + share for _, share in results])
        print(f"  {'ours, its parts timed inside':45} {interval_of(parts)} of rest")


if __name__ == "__main__":
    main()

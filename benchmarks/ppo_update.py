"""Time of one PPO update, compared with RecurrentPPO of sb3-contrib at equal sizes.

    uv run --group benchmarks python benchmarks/ppo_update.py [--rounds 20] [--sizes small middle]

Both sides have the same network, parameter for parameter (a linear layer with layer norm and tanh,
an LSTM, one linear map to all choices of all heads, one to the value), the same rollout of whole
episodes, the same number of epochs and minibatches, and no early stopping. Theirs is
`RecurrentPPO.train()`, which receives the returns; ours is `PPOAgent.update()`, including returns,
old log-probabilities, masks, detection of Inf and NaN and the figures of every head. Both sides
alternate in one process. The ratio is the median over the rounds with a 95 % bootstrap interval;
beside it is the ratio of the fastest updates, which other processes disturb least. On a busy
machine, `--cpu-time` measures processor time instead of wall-clock time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from benchmark_output import rounds_of
from scipy.stats import bootstrap
from torch import nn
from update_overhead import OBSERVATION_SIZE, SIZES, Size, agent_of, rollout_of

from esper.leyline.heads import HEAD_SIZES

try:
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv
except ImportError:
    sys.exit(
        "this benchmark compares with sb3-contrib, which is not installed: run it with "
        "`uv run --group benchmarks python benchmarks/ppo_update.py`"
    )


class Noise(gymnasium.Env[np.ndarray, np.ndarray]):
    """Random observations and rewards in episodes of a fixed length; costs next to nothing."""

    def __init__(self, steps: int, seed: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,))
        self.action_space = gymnasium.spaces.MultiDiscrete(list(HEAD_SIZES))
        self._steps, self._done = steps, 0
        self._random = np.random.default_rng(seed)

    def _observe(self) -> np.ndarray:
        return self._random.standard_normal(OBSERVATION_SIZE, dtype=np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        self._done = 0
        return self._observe(), {}

    def step(self, _: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Return random values that do not depend on the action."""
        self._done += 1
        over = self._done == self._steps
        return self._observe(), float(self._random.standard_normal()), over, False, {}


class Features(BaseFeaturesExtractor):
    """The layer before the LSTM, as our policy has it."""

    def __init__(self, space: gymnasium.Space[Any], size: int) -> None:
        super().__init__(space, size)
        self.layers = nn.Sequential(
            nn.Linear(OBSERVATION_SIZE, size), nn.LayerNorm(size), nn.Tanh()
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Map observations `[n, F]` to features `[n, size]`."""
        features: torch.Tensor = self.layers(observations)
        return features


class Silence(BaseCallback):
    """The callback that collecting needs; it does nothing."""

    def _on_step(self) -> bool:
        return True


def their_side(size: Size, epochs: int, minibatches: int) -> tuple[Any, Callable[[], None]]:
    """Return their agent, and a function that collects a rollout for it."""
    envs = DummyVecEnv([lambda seed=seed: Noise(size.steps, seed) for seed in range(size.hosts)])
    agent = RecurrentPPO(
        "MlpLstmPolicy",
        envs,
        learning_rate=1e-5,
        n_steps=size.steps,
        batch_size=size.hosts * size.steps // minibatches,
        n_epochs=epochs,
        ent_coef=0.02,
        device="cpu",
        policy_kwargs={
            "features_extractor_class": Features,
            "features_extractor_kwargs": {"size": size.feature_size},
            "net_arch": [],
            "lstm_hidden_size": size.lstm_size,
            "shared_lstm": True,
            "enable_critic_lstm": False,
        },
    )
    agent._setup_learn(size.hosts * size.steps)
    silence = Silence()
    silence.init_callback(agent)

    def collect() -> None:
        agent.collect_rollouts(envs, silence, agent.rollout_buffer, n_rollout_steps=size.steps)

    return agent, collect


def parameters(module: nn.Module) -> int:
    """Return the number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def compare(size: Size, rounds: int, clock: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Return the seconds of our updates and of theirs."""
    agent = agent_of(size)
    rollout = rollout_of(agent, size)
    rival, collect = their_side(size, agent.config.ppo_epochs, agent.config.minibatches)
    if parameters(rival.policy) != parameters(agent.policy):
        raise AssertionError(
            f"unequal networks: {parameters(agent.policy)} and {parameters(rival.policy)}"
        )

    def timed(work: Callable[[], object]) -> float:
        start = clock()
        work()
        return clock() - start

    own, other = [], []
    for turn in range(rounds + 2):
        collect()
        # The second one profits from warm caches, so the order alternates.
        if turn % 2:
            other.append(timed(rival.train))
            own.append(timed(lambda: agent.update(rollout)))
        else:
            own.append(timed(lambda: agent.update(rollout)))
            other.append(timed(rival.train))
    return own[2:], other[2:]  # first calls allocate and choose kernels


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=rounds_of, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "middle", "large"])
    parser.add_argument("--cpu-time", action="store_true", help="count processor time")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.threads)
    for name in options.sizes:
        size = SIZES[name]
        rounds = options.rounds if name != "large" else max(options.rounds // 5, 3)
        own, other = compare(size, rounds, clock)
        ratios = np.array(other) / np.array(own)
        interval = bootstrap((ratios,), np.median, rng=0).confidence_interval
        print(f"{name}: {size}, {rounds} rounds, {options.threads} threads")
        print(
            f"  ours {1000 * statistics.median(own):.1f} ms, theirs "
            f"{1000 * statistics.median(other):.1f} ms: {np.median(ratios):.2f} times as fast "
            f"[{interval.low:.2f}, {interval.high:.2f}]; fastest {1000 * min(own):.1f} ms and "
            f"{1000 * min(other):.1f} ms: {min(other) / min(own):.2f}"
        )


if __name__ == "__main__":
    main()

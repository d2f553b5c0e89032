"""Cost of `esper.watch` while nothing is wrong, compared with the common ways to look for NaN.

Each variant and the unwatched training alternate in one process, in processor time, on the same
model and data. The measurement is repeated in several processes: reported are the median of their
median ratios and a 95 % bootstrap interval over the processes.

    uv run python benchmarks/watch_overhead.py [--rounds 12] [--processes 5] [--subjects gpt]
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stdout,
)
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from benchmark_output import in_processes, line_of, rounds_of
from torch import Tensor, nn

import esper
from esper.watching.watch import Watch

RATE = 1e-6  # so small that hundreds of updates on the same data change little


@dataclass(frozen=True)
class Subject:
    """One training.

    Attributes:
        train: one update.
        model: that is trained.
        watched: what `esper.watch` is given.
        steps: optimizer steps in an update.
    """

    train: Callable[[], object]
    model: nn.Module
    watched: dict[str, Any]
    steps: int


class RandomEnv(gym.Env):
    """Random observations and rewards."""

    def __init__(self, action_space: gym.Space) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:  # noqa: ARG002
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:  # noqa: ARG002
        ends = bool(self.np_random.random() < 0.05)
        return self.observation_space.sample(), float(self.np_random.normal()), ends, False, {}


def sb3(action_space: gym.Space, width: int = 64, *, recurrent: bool = False) -> Subject:
    """Return the `train()` of a Stable-Baselines3 PPO, with a rollout to train on."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import CallbackList

    cls, policy = (RecurrentPPO, "MlpLstmPolicy") if recurrent else (PPO, "MlpPolicy")
    steps, batch = (256, 64) if recurrent else (1024, 64)
    model = cls(
        policy, RandomEnv(action_space), n_steps=steps, batch_size=batch, n_epochs=4,
        learning_rate=RATE, seed=0, device="cpu", policy_kwargs={"net_arch": [width, width]},
    )  # fmt: skip
    _, callback = model._setup_learn(steps, CallbackList([]))
    model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=steps)
    return Subject(model.train, model.policy, {"model": model}, 4 * steps // batch)


def cleanrl() -> Subject:
    """Return an update as a CleanRL script writes it: four choices, one after another."""
    torch.manual_seed(0)
    sizes = (4, 3, 5, 2)

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
            self.actor = nn.Linear(64, sum(sizes))
            self.critic = nn.Linear(64, 1)

        def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            features = self.trunk(observations)
            parts = self.actor(features).split(sizes, dim=-1)
            choices = [torch.distributions.Categorical(logits=part) for part in parts]
            log_prob = sum(c.log_prob(actions[:, i]) for i, c in enumerate(choices))
            entropy = sum(choice.entropy() for choice in choices)
            return log_prob, entropy, self.critic(features).squeeze(-1)

    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=RATE, eps=1e-5)
    b_obs = torch.randn(1024, 8)
    b_actions = torch.stack([torch.randint(size, (1024,)) for size in sizes], 1)
    b_logprobs = agent(b_obs, b_actions)[0].detach()
    b_advantages, b_returns = torch.randn(1024), torch.randn(1024)

    def update() -> None:
        for _epoch in range(4):
            order = torch.randperm(1024)
            for start in range(0, 1024, 256):
                mb = order[start : start + 256]
                newlogprob, entropy, newvalue = agent(b_obs[mb], b_actions[mb])
                ratio = (newlogprob - b_logprobs[mb]).exp()
                mb_advantages = b_advantages[mb]
                pg_loss = torch.max(
                    -mb_advantages * ratio, -mb_advantages * ratio.clamp(0.8, 1.2)
                ).mean()
                v_loss = 0.5 * (newvalue - b_returns[mb]).square().mean()
                loss = pg_loss - 0.01 * entropy.mean() + 0.5 * v_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()

    heads = gym.spaces.MultiDiscrete(sizes)
    return Subject(update, agent, {"model": agent, "optimizer": optimizer, "heads": heads}, 16)


def gpt() -> Subject:
    """Return eight optimizer steps of a small GPT-2 under transformers' Trainer."""
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=2048, n_positions=64, n_embd=128, n_layer=4, n_head=4)
    model = GPT2LMHeadModel(config)
    rows = torch.randint(2048, (64, 64))
    data = [{"input_ids": row, "labels": row} for row in rows]
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=8, max_steps=8, use_cpu=True,
        learning_rate=RATE, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip

    def train() -> None:
        with redirect_stdout(StringIO()):  # it prints its figures at the end
            Trainer(model, arguments, train_dataset=data).train()

    return Subject(train, model, {"model": model, "heads": {"lm_head": model.lm_head}}, 8)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "sb3-multidiscrete": lambda: sb3(gym.spaces.MultiDiscrete([5, 3, 4, 2, 6, 3, 2, 7])),
    "sb3-box": lambda: sb3(gym.spaces.Box(-1.0, 1.0, (6,), np.float32)),
    "sb3-256": lambda: sb3(gym.spaces.MultiDiscrete([5, 3, 4, 2]), 256),
    "sb3-recurrent": lambda: sb3(gym.spaces.Discrete(4), recurrent=True),
    "cleanrl": cleanrl,
    "gpt": gpt,
}


@contextmanager
def hooks(model: nn.Module) -> Iterator[None]:
    """Look at each output and each gradient, as scripts that search for a NaN do."""

    def output(_module: nn.Module, _inputs: Any, result: Any) -> None:
        if isinstance(result, Tensor) and not result.isfinite().all():
            raise ValueError("not finite")

    def gradient(value: Tensor) -> None:
        if not value.isfinite().all():
            raise ValueError("not finite")

    with ExitStack() as exits:
        for module in model.modules():
            exits.callback(module.register_forward_hook(output).remove)
        for parameter in model.parameters():
            exits.callback(parameter.register_hook(gradient).remove)
        yield


@contextmanager
def capture(model: nn.Module) -> Iterator[None]:
    """Keep a copy of the weights and of the inputs at each step, so that it can be repeated."""
    kept: dict[str, Any] = {}

    def step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        kept["weights"] = [p.detach().clone() for g in optimizer.param_groups for p in g["params"]]
        kept["state"] = deepcopy(optimizer.state_dict())

    def call(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept["inputs"] = [one.detach().clone() for one in inputs if isinstance(one, Tensor)]

    from torch.optim.optimizer import register_optimizer_step_pre_hook

    with ExitStack() as exits:
        exits.callback(register_optimizer_step_pre_hook(step).remove)
        exits.callback(model.register_forward_pre_hook(call).remove)
        yield


def seconds(
    work: Callable[[], object], context: AbstractContextManager[object] | None = None
) -> float:
    """Return the processor time of `work` in a context, which is entered before and left after."""
    with context or nullcontext():
        start = time.process_time()
        work()
        return time.process_time() - start


@contextmanager
def attached(watch: Watch) -> Iterator[None]:
    """Watch, as from the beginning of a training to its end."""
    watch.resume()
    try:
        yield
    finally:
        watch.pause()


def measure(
    subject: Subject, rounds: int, runs: Path
) -> dict[str, tuple[list[float], list[float]]]:
    """Return the seconds of each variant, and its ratios to the unwatched update next to it."""
    watch = esper.watch(**subject.watched, run_dir=runs, finds_updates=False)
    watch.pause()

    def watched() -> None:
        subject.train()
        watch.update(loss=0.0)

    variants: dict[str, Callable[[], float]] = {
        "unwatched, again (noise)": lambda: seconds(subject.train),
        "esper.watch": lambda: seconds(watched, attached(watch)),
        "isfinite on outputs, gradients": lambda: seconds(subject.train, hooks(subject.model)),
        "a copy at each step": lambda: seconds(subject.train, capture(subject.model)),
        "detect_anomaly": lambda: seconds(
            subject.train, torch.autograd.detect_anomaly(check_nan=True)
        ),
    }
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in variants}
    subject.train()
    for name, variant in variants.items():  # one by one: what one leaves in memory slows others
        variant()
        for turn in range(max(2, rounds // 4) if name == "detect_anomaly" else rounds):
            # The second of two profits from warm caches, so they take turns.
            if turn % 2:
                base, own = seconds(subject.train), variant()
            else:
                own, base = variant(), seconds(subject.train)
            results[name][0].append(own)
            results[name][1].append(own / base)
    watch.close()
    if watch.troubles or watch.failures:
        raise SystemExit(f"a clean training had {watch.troubles}, {watch.last_failure}")
    return results


def in_a_process(name: str, rounds: int, threads: int) -> tuple[dict[str, list[float]], str]:
    """Return the median milliseconds and ratio of each variant, and a line on the subject."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
    logging.getLogger("esper").setLevel(logging.ERROR)
    subject = SUBJECTS[name]()
    with tempfile.TemporaryDirectory() as runs:
        results = measure(subject, rounds, Path(runs))
    medians = {
        variant: [1000 * float(np.median(own)), float(np.median(ratios))]
        for variant, (own, ratios) in results.items()
    }
    weights = sum(p.numel() for p in subject.model.parameters())
    return medians, f"{subject.steps} optimizer steps an update, {weights} parameters"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=rounds_of, default=12, help="rounds in each process")
    parser.add_argument("--processes", type=rounds_of, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    options = parser.parse_args()
    for name in options.subjects:
        results = in_processes(
            options.processes, in_a_process, name, options.rounds, options.threads
        )
        print(
            f"{name}: {results[0][1]}, {options.processes} processes of {options.rounds} rounds, "
            f"{options.threads} threads"
        )
        for variant in results[0][0]:
            print(line_of(variant, *np.array([medians[variant] for medians, _ in results]).T))


if __name__ == "__main__":
    main()

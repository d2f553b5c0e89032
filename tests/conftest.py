"""Builders of events, for the tests of every room that reads or writes them."""

import gc
import os
import sys
from typing import Any

# Before anything imports torch. As many processes test as there are cores, and each would start as
# many threads again, which then wait for each other: a test took six times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests start a hundred processes; without bytecode on the disk each would compile torch again, for
# four seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
from hypothesis import settings

from esper.leyline.head_figures import HEAD_FIGURES, HeadFigure
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_CHOICES, HEAD_NAMES, SLOT_CHOICES
from esper.leyline.telemetry import (
    EpisodesCompleted,
    Event,
    NonfiniteSighting,
    Payload,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SeedTransitioned,
    StepCompleted,
)

sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection: it took an eighth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_unconfigure() -> None:
    """Let the interpreter free everything at its end; some extensions complain of what is left."""
    gc.unfreeze()


# The same examples each time, so that only a change of the code changes the result. To search
# further, with other examples each time: `uv run pytest --hypothesis-profile=search`. No example
# has a time limit: on a busy machine it would fail without a fault.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile("repeatable")


#: Values of per-head figures in a healthy update.
HEALTHY_FIGURES = {
    "head_entropy": 0.8,
    "head_gradient_norm": 0.3,
    "head_ratio_max": 1.2,
    "head_clip_fraction": 0.1,
    "head_kl": 0.01,
    "head_log_prob_min": -3.0,
    "head_log_prob_max": -0.2,
    "head_active_fraction": 0.5,
}


def healthy_value(figure: HeadFigure) -> float:
    """Return a value of a per-head figure within its thresholds."""
    if figure.field in HEALTHY_FIGURES:
        return HEALTHY_FIGURES[figure.field]
    low, high = figure.thresholds.warn_below, figure.thresholds.warn_above
    if low is None:
        return 0.05 if high is None else high / 2
    return low + 0.05 if high is None else (low + high) / 2


class Payloads:
    """Makes payloads of which a test needs to name only what it is about."""

    def start(self, **changes: Any) -> RunStarted:
        """Return the start of a run of 10 episodes on 2 hosts."""
        values: dict[str, Any] = {
            "run_id": "20261122-193000-test",
            "name": "test",
            "task": "mnist1d",
            "seed": 7,
            "device": "cpu",
            "threads": 1,
            "episodes": 10,
            "steps": 24,
            "environments": 2,
            "heads": {head: list(choices) for head, choices in HEAD_CHOICES.items()},
            "slots": list(SLOT_CHOICES),
            "blueprints": list(BLUEPRINT_CHOICES),
            "host_parameters": 858,
            "config": {},
            "pid": 4_000_000,
            "process_start_time": 1_000.0,
        }
        return RunStarted(**(values | changes))

    def step(self, step: int = 1, hosts: int = 2, **changes: Any) -> StepCompleted:
        """Return a step of hosts with three slots each, all of them empty."""
        values: dict[str, Any] = {
            "update": 1,
            "step": step,
            "first_episode": 1,
            "accuracy": [0.1 + 0.01 * step] * hosts,
            "loss": [2.0] * hosts,
            "parameters": [858] * hosts,
            "stages": [[0, 0, 0] for _ in range(hosts)],
            "alphas": [[0.0, 0.0, 0.0] for _ in range(hosts)],
            "blueprints": [[-1, -1, -1] for _ in range(hosts)],
            "reward": [0.25] * hosts,
            "reward_terms": {"accuracy": [0.25] * hosts},
            "samples_per_second": 100_000.0,
        }
        return StepCompleted(**(values | changes))

    def update(self, update: int = 1, **changes: Any) -> PPOUpdatePayload:
        """Return a healthy update."""
        values: dict[str, Any] = {
            "update": update,
            "episodes_done": 2 * update,
            "minibatches": 8,
            "minibatches_skipped": 0,
            "minibatches_stopped": 0,
            "policy_loss": -0.01,
            "value_loss": 0.5,
            "entropy": 3.0,
            "approximate_kl": 0.01,
            "clip_fraction": 0.1,
            "explained_variance": 0.6,
            "gradient_norm": 1.5,
            "learning_rate": 2e-3,
            "rollout_seconds": 1.0,
            "update_seconds": 0.1,
            "samples_per_second": 100_000.0,
            "head_inf_detected": dict.fromkeys(HEAD_NAMES, False),
            "head_nan_detected": dict.fromkeys(HEAD_NAMES, False),
            **{
                figure.field: dict.fromkeys(HEAD_NAMES, healthy_value(figure))
                for figure in HEAD_FIGURES
            },
        }
        return PPOUpdatePayload(**(values | changes))

    def broken_update(
        self, update: int, head: str, kind: str, quantity: str = "logits", **changes: Any
    ) -> PPOUpdatePayload:
        """Return an update in whose first minibatch a head went non-finite."""
        sighting = self.sighting(head=head, kind=kind, quantity=quantity)
        values: dict[str, Any] = {
            "head_inf_detected": {head: kind != "nan"},
            "head_nan_detected": {head: kind == "nan"},
            "head_nonfinite": [sighting],
            "minibatches_skipped": 1,
        }
        return self.update(update, **(values | changes))

    def sighting(self, **changes: Any) -> NonfiniteSighting:
        """Return a sighting of +Inf in the logits of `op`."""
        values: dict[str, Any] = {
            "head": "op",
            "quantity": "logits",
            "kind": "+inf",
            "count": 1,
            "epoch": 1,
            "minibatch": 1,
        }
        return NonfiniteSighting(**(values | changes))

    def transition(self, to_stage: int, **changes: Any) -> SeedTransitioned:
        """Return a transition of a conv seed in the middle slot of host 1."""
        values: dict[str, Any] = {
            "update": 1,
            "step": 3,
            "episode": 2,
            "host": 1,
            "slot": 1,
            "blueprint": 3,
            "from_stage": 0,
            "to_stage": to_stage,
            "cause": "germinate",
        }
        return SeedTransitioned(**(values | changes))

    def episodes(self, update: int = 1, **changes: Any) -> EpisodesCompleted:
        """Return the end of a batch of two episodes, with a mean score of 0.5."""
        values: dict[str, Any] = {
            "update": update,
            "first_episode": 2 * update - 1,
            "episodes_done": 2 * update,
            "score": [0.4, 0.6],
            "returns": [1.0, 2.0],
            "accuracy": [0.5, 0.7],
            "parameters": [900, 1_000],
            "fossilized": [1, 2],
        }
        return EpisodesCompleted(**(values | changes))

    def finish(self, status: str = "finished", **changes: Any) -> RunFinished:
        """Return the end of a run after 5 updates."""
        values: dict[str, Any] = {"status": status, "update": 5, "episodes_done": 10}
        return RunFinished(**(values | changes))

    def events(self, *payloads: Payload) -> list[Event]:
        """Return the payloads as events with ids from 1, a second apart."""
        return [
            Event(id=number, time=1_000.0 + number, payload=payload)
            for number, payload in enumerate(payloads, start=1)
        ]


@pytest.fixture(scope="session")
def payloads() -> Payloads:
    """Builders of payloads."""
    return Payloads()

"""Agents and rollouts for the tests of training, small and reproducible."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.leyline.heads import HEAD_SIZES, Op
from esper.leyline.telemetry import NonfiniteSighting, Payload, PPOUpdatePayload, RunFinished
from esper.simic.agent.drill_hook import update_with_drills
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout, RolloutBuffer
from esper.simic.config import TrainingConfig
from esper.simic.drill import Injection
from esper.simic.replay.incidents import Capsule
from esper.simic.training import trainer as training
from esper.simic.training.faults.incident_recording import capsule_of
from esper.simic.training.process.stopping import StopRequest
from esper.simic.training.progress import PlainLines
from esper.tamiyo.policy import RecurrentPolicy

OBSERVATION_SIZE = 12

AgentMaker = Callable[..., PPOAgent]
RolloutMaker = Callable[..., Rollout]
CapsuleMaker = Callable[..., Capsule]


@pytest.fixture
def make_agent() -> AgentMaker:
    """Return a function that makes an agent; its keywords are settings."""

    def make(**settings: object) -> PPOAgent:
        torch.manual_seed(0)
        settings = {"ppo_epochs": 4, "feature_size": 16, "lstm_size": 16} | settings
        config = TrainingConfig(**settings)
        policy = RecurrentPolicy(OBSERVATION_SIZE, feature_size=16, lstm_size=16)
        return PPOAgent(policy, config, rng_seed=1)

    return make


@pytest.fixture
def make_rollout() -> RolloutMaker:
    """Return a function that has an agent act on random observations, with random masks."""

    def make(agent: PPOAgent, steps: int = 6, hosts: int = 8, seed: int = 0) -> Rollout:
        random = torch.Generator().manual_seed(seed)
        state = agent.policy.initial_state(hosts)
        buffer = RolloutBuffer(state)
        no = torch.zeros(hosts, dtype=torch.bool)
        for step in range(steps):
            observations = torch.randn(hosts, OBSERVATION_SIZE, generator=random)
            mask = torch.ones(hosts, sum(HEAD_SIZES), dtype=torch.bool)
            slots = torch.rand(hosts, len(Op), HEAD_SIZES[0], generator=random) > 0.4
            slots[..., 0] = True
            slots[:, Op.WAIT] = True
            decision = agent.act(observations, mask, slots, state)
            state = decision.state
            ended = no | (step == steps - 1)
            rewards = torch.randn(hosts, generator=random)
            buffer.add(observations, decision, rewards, ended, no, torch.zeros(hosts))
        return buffer.rollout(torch.zeros(hosts))

    return make


class Log:
    """A writer that keeps everything."""

    def __init__(self) -> None:
        self.payloads: list[Payload] = []

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        self.payloads.append(payload)

    def latches(self) -> list[tuple[int, NonfiniteSighting]]:
        """Return the first sighting of each kind that was emitted."""
        found: dict[tuple[str, str, str], tuple[int, NonfiniteSighting]] = {}
        for update in self.of(PPOUpdatePayload):
            for seen in update.head_nonfinite:
                found.setdefault((seen.head, seen.quantity, seen.kind), (update.update, seen))
        return list(found.values())

    def of(self, kind: type) -> list[Any]:
        return [payload for payload in self.payloads if isinstance(payload, kind)]


@pytest.fixture
def event_log() -> type[Log]:
    """Return a writer's class that keeps everything."""
    return Log


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[RunFinished, Log]]:
    """Return a function that trains in `tmp_path`; its keywords are settings."""

    def run(
        stop: StopRequest | None = None, log: Log | None = None, **settings: Any
    ) -> tuple[RunFinished, Log]:
        log = log or Log()
        config = TrainingConfig(**{"envs": 2, "steps": 2, "minibatches": 1, **settings})
        ending = training.train(
            config, tmp_path, log, PlainLines(config.episodes, io.StringIO()), stop or StopRequest()
        )
        return ending, log

    return run


@pytest.fixture
def make_capsule() -> CapsuleMaker:
    """Return a function that makes an update and returns its capsule, as training does."""

    def make(agent: PPOAgent, rollout: Rollout, *drills: Injection) -> Capsule:
        result = update_with_drills(agent, rollout, drills)
        assert result.start is not None, "everything was finite"
        capsule = capsule_of(
            37,
            result,
            rollout,
            drills,
            config=agent.config,
            threads=torch.get_num_threads(),
            device=torch.device("cpu"),
        )
        return replace(capsule, versions={"torch": str(torch.__version__)})

    return make

"""What an update reported, and rollouts with other tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import Payload, PPOUpdatePayload
from esper.simic.agent.figures import UpdateResult
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.telemetry.emitters import emit_ppo_update_event


class Collector:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.durable: list[Payload] = []

    def emit(self, payload: Payload, *, durable: bool = False) -> None:
        assert durable, "an update must be committed before the process continues"
        self.durable.append(payload)


def emitted(result: UpdateResult, update: int = 1) -> PPOUpdatePayload:
    writer = Collector()
    payload = emit_ppo_update_event(
        writer,
        result,
        update=update,
        episodes_done=8,
        rollout_seconds=1.0,
        update_seconds=0.1,
        samples_per_second=1000.0,
    )
    assert writer.durable == [payload]
    return payload


def lit(detected: dict[str, bool]) -> set[str]:
    assert set(detected) == set(HEAD_NAMES)
    return {head for head, on in detected.items() if on}


def with_parts(rollout: Rollout, **parts: torch.Tensor) -> Rollout:
    return Rollout(**{**rollout.__dict__, **parts})


def sources(result: UpdateResult) -> set[tuple[str, str]]:
    return {(seen.head, seen.quantity) for seen in result.figures.head_nonfinite}


@contextmanager
def passes(agent: PPOAgent) -> Iterator[list[int]]:
    """Count passes over the minibatches of updates: the list gets an entry for each."""
    count: list[int] = []
    learn = agent.learn

    def counted(*arguments: Any) -> Any:
        count.append(1)
        return learn(*arguments)

    agent.learn = counted
    try:
        yield count
    finally:
        agent.learn = learn

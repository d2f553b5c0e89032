"""Subjects of the campaigns: processes that write a run and print what they have announced.

    python runs_that_end.py RUN UPDATES SEED

Writes a run of updates, some of which light a head, and prints a line for each event once it is
announced: `update N` or `light HEAD KIND N`.
"""

import random
import sys
from pathlib import Path
from typing import Any

import msgspec
from run_starts import run_started

from esper.karn.store.run_store import RunWriter
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import (
    NonfiniteSighting,
    Notice,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
)

_COUNTS = ("minibatches", "minibatches_skipped", "minibatches_stopped")


def update_of(number: int, head: str = "", kind: str = "") -> PPOUpdatePayload:
    """Return an update; with a head, one in which it went non-finite."""
    required = [field.name for field in msgspec.structs.fields(PPOUpdatePayload) if field.required]
    seen = NonfiniteSighting(head=head, quantity="logits", kind=kind, count=1, epoch=1, minibatch=1)
    values: dict[str, Any] = dict.fromkeys(required, 0.0) | dict.fromkeys(_COUNTS, 8)
    values |= {
        "update": number,
        "episodes_done": 2 * number,
        "head_inf_detected": {head: kind != "nan"} if head else {},
        "head_nan_detected": {head: kind == "nan"} if head else {},
        "head_nonfinite": [seen] if head else [],
        "head_kl": dict.fromkeys(HEAD_NAMES, 0.01),
    }
    return PPOUpdatePayload(**values)


def start_of(run: str, resumed_from: int | None = None) -> RunStarted:
    """Return the start of a run."""
    return run_started(run, 2, task="none", steps=4, resumed_from_update=resumed_from)


def write(run: Path, updates: int, seed: int) -> None:
    """Write the run; print what was announced."""
    chance = random.Random(seed)
    with RunWriter(run) as writer:
        writer.emit(start_of(run.name), durable=True)
        for number in range(1, updates + 1):
            for _ in range(chance.randrange(20)):
                writer.emit(Notice(level="info", text="x" * chance.randrange(2_000)))
            head, kind = chance.choice(HEAD_NAMES), chance.choice(("nan", "+inf"))
            if chance.random() < 0.2:
                writer.emit(update_of(number, head, kind), durable=True)
                print(f"light {head} {kind} {number}", flush=True)
            else:
                writer.emit(update_of(number), durable=True)
                print(f"update {number}", flush=True)
        writer.emit(RunFinished(status="finished", update=updates, episodes_done=0), durable=True)
    print("finished", flush=True)


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

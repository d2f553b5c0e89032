"""Campaign: k updates, a resume and k more equal 2k updates bit for bit, over random settings.

Compared are the last checkpoints, and what the stores hold.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_equality.py

`ESPER_CAMPAIGN` scales it (1.0 is 200 settings), `ESPER_SEED` repeats it.
"""

import io
import os
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.telemetry import CheckpointWritten, Notice, RunFinished, RunStarted, kind_of
from esper.simic.config import TrainingConfig, updated
from esper.simic.training.checkpoint import Checkpoint, load_latest
from esper.simic.training.process.stopping import StopRequest
from esper.simic.training.progress import PlainLines
from esper.simic.training.trainer import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(14_400)]
SCALE = float(os.environ.get("ESPER_CAMPAIGN", "1.0"))
#: How long things took, which no two runs have alike; in events and in tables.
DURATIONS = frozenset(
    {
        "time",
        "rollout_seconds",
        "hosts_seconds",
        "update_seconds",
        "samples_per_second",
    }
)
#: Fields about the training process, which differ between runs of the same training.
OF_PROCESS = (RunStarted, RunFinished, CheckpointWritten)
#: Tables and views whose rows are made from events.
TABLES = (
    "updates",
    "update_figures",
    "episodes",
    "head_health",
    "latches",
    "sightings",
    "evidence",
)


def settings_of(chance: random.Random) -> dict[str, Any]:
    """Return random settings of a small run."""
    drill = chance.choice(((), (), ("op:inf@1",), ("slot:nan@1",)))
    return {
        "envs": chance.choice((1, 2, 3, 5, 16)),
        "steps": chance.randint(1, 4),
        "task": chance.choice(("mnist1d", "digits")),
        "seed": chance.randrange(2**31),
        "device": "cpu",
        "processes": chance.choice((1, 2)),
        "amp": chance.choice(("off", "off", "bf16")),
        "ppo_epochs": chance.randint(1, 4),
        "minibatches": chance.randint(1, 4),
        "learning_rate": chance.choice((1e-4, 3e-3, 3e-2)),
        "anneal_episodes": chance.choice((4, 100, 4800)),
        "gamma": chance.choice((0.9, 1.0)),
        "siblings": chance.choice((1, 2, 8)),
        "target_kl": chance.choice((0.0, 0.03)),
        "feature_size": chance.choice((4, 16)),
        "lstm_size": chance.choice((4, 16)),
        "checkpoint_every": chance.choice((1, 3)),
        "on_nonfinite": chance.choice(("skip", "rollback")),
        "nonfinite_patience": chance.choice((1, 5)),
        "inject": drill,
    }


def trained(run: Path, episodes: int, settings: dict[str, Any]) -> Checkpoint:
    """Train a run to its end, or on; return its last checkpoint."""
    run.mkdir(exist_ok=True)
    config = updated(TrainingConfig(), {"episodes": episodes, **settings})
    with RunWriter(run) as writer:
        train(config, run, writer, PlainLines(episodes, io.StringIO()), StopRequest())
    checkpoint, passed_over = load_latest(run / "checkpoints", torch.device("cpu"))
    assert checkpoint is not None
    assert not passed_over
    return checkpoint


def events_of(run: Path) -> list[str]:
    """Return what a store tells of the training, an event at a time, without durations."""
    found = []
    for event in RunReader(run).read(0, 1_000_000):
        payload = event.payload
        is_start = isinstance(payload, Notice) and payload.text.startswith("preparing ")
        if not is_start and not isinstance(payload, OF_PROCESS):
            fields = {
                name: value
                for name, value in msgspec.to_builtins(payload).items()
                if name not in DURATIONS
            }
            found.append(f"{kind_of(payload)} {fields}")  # as text, in which a NaN equals another
    return found


def rows_of(run: Path) -> list[str]:
    """Return the rows of the tables that are made from events, without times and durations."""
    found = []
    with closing(sqlite3.connect(run / "run.sqlite")) as store:
        for table in TABLES:
            rows = store.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in rows.description]
            kept = [place for place, name in enumerate(names) if name not in DURATIONS]
            found += sorted(f"{table} {[row[place] for place in kept]}" for row in rows)
    return found


def process_of(run: Path) -> tuple[Any, ...]:
    """Return the updates with a checkpoint, the starts of the run, and its end."""
    events = [event.payload for event in RunReader(run).read(0, 1_000_000)]
    end = msgspec.to_builtins(events[-1])
    return (
        {one.update for one in events if isinstance(one, CheckpointWritten)},
        [one.resumed_from_update for one in events if isinstance(one, RunStarted)],
        {name: value for name, value in end.items() if name not in DURATIONS},
    )


def same(one: Any, other: Any) -> bool:
    """Return whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        # NaN is as good as any other value here.
        return bool(torch.equal(one.view(-1).view(torch.uint8), other.view(-1).view(torch.uint8)))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_a_run_that_was_resumed_is_the_same_run(tmp_path: Path) -> None:
    seed = int(os.environ.get("ESPER_SEED", time.time_ns() % 2**32))
    number = max(1, int(200 * SCALE))
    print(f"ESPER_SEED={seed} ESPER_CAMPAIGN={SCALE}: {number} settings")
    chance = random.Random(seed)
    for case in range(number):
        settings = settings_of(chance)
        updates = chance.randint(1, 2)
        half, whole = updates * settings["envs"], 2 * updates * settings["envs"]
        parts, straight = tmp_path / f"parts{case}", tmp_path / f"straight{case}"
        trained(parts, half, settings)
        resumed = trained(parts, whole, settings)
        once = trained(straight, whole, settings)
        place = (seed, case, settings)
        assert resumed.update == once.update == 2 * updates, place
        assert resumed.drills == once.drills, place
        assert same(resumed.agent, once.agent), place
        kept = [[seen for _, seen in one.latches] for one in (resumed, once)]
        assert kept[0] == kept[1], place
        assert events_of(parts) == events_of(straight), place
        assert rows_of(parts) == rows_of(straight), place
        checkpoints, starts, end = process_of(parts)
        assert starts == [None, updates], place
        # One more is written where the first part ends.
        assert checkpoints == process_of(straight)[0] | {updates}, place
        assert end == process_of(straight)[2], place
    print(f"{number} settings, all equal")

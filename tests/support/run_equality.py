"""Compares a resumed run with one that was not interrupted: checkpoints and stores, bit for bit."""

import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import torch

from esper.karn.store.run_store import RunReader, RunWriter
from esper.leyline.telemetry import CheckpointWritten, Notice, RunFinished, RunStarted, kind_of
from esper.simic.config import TrainingConfig, updated
from esper.simic.training.checkpoint import Checkpoint, load_latest
from esper.simic.training.process.stopping import StopRequest
from esper.simic.training.progress import PlainLines
from esper.simic.training.trainer import train

#: Fields and columns of durations, which differ between any two runs.
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


def trained(run: Path, episodes: int, settings: dict[str, Any]) -> Checkpoint:
    """Train or resume a run up to a number of episodes; return its last checkpoint."""
    run.mkdir(exist_ok=True)
    config = updated(TrainingConfig(), {"episodes": episodes, **settings})
    with RunWriter(run) as writer:
        train(config, run, writer, PlainLines(episodes, io.StringIO()), StopRequest())
    checkpoint, passed_over = load_latest(run / "checkpoints", torch.device("cpu"))
    assert checkpoint is not None
    assert not passed_over
    return checkpoint


def events_of(run: Path) -> list[str]:
    """Return the events of a store about training, without durations."""
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
        # As bytes, so that a NaN equals itself.
        return bool(torch.equal(one.view(-1).view(torch.uint8), other.view(-1).view(torch.uint8)))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_resume_changes_nothing(
    folder: Path, updates: int, settings: dict[str, Any], place: object = None
) -> None:
    """Train k updates, resume for k more, train 2k updates at once, and compare the two runs.

    Args:
        folder: where the two runs are made, as `parts` and `straight`.
        updates: k.
        settings: settings of the run, `envs` included; the number of episodes follows from them.
        place: shown with a failure.
    """
    half, whole = updates * settings["envs"], 2 * updates * settings["envs"]
    parts, straight = folder / "parts", folder / "straight"
    trained(parts, half, settings)
    resumed = trained(parts, whole, settings)
    once = trained(straight, whole, settings)
    assert resumed.update == once.update == 2 * updates, place
    assert resumed.drills == once.drills, place
    assert same(resumed.agent, once.agent), place
    latches = [[seen for _, seen in one.latches] for one in (resumed, once)]
    assert latches[0] == latches[1], place
    assert events_of(parts) == events_of(straight), place
    assert rows_of(parts) == rows_of(straight), place
    checkpoints, starts, end = process_of(parts)
    assert starts == [None, updates], place
    # One more is written where the first part ends.
    assert checkpoints == process_of(straight)[0] | {updates}, place
    assert end == process_of(straight)[2], place

"""Runs on the disk, empty and finished, and folds of events without any disk."""

import resource
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, contextmanager

import pytest

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import Event, InterventionTaken


@pytest.fixture
def run(tmp_path):
    """The directory of a run that has no store yet."""
    return create_run(tmp_path / "runs", "test")


@pytest.fixture
def finished_run(run, payloads):
    """A run of two updates, in the second of which `op` went Inf."""
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update in (1, 2):
            writer.emit(payloads.step(update=update))
            writer.emit(payloads.episodes(update))
            if update == 1:
                writer.emit(payloads.update(1))
            else:
                writer.emit(payloads.broken_update(2, "op", "+inf"))
        writer.emit(payloads.finish(update=2, episodes_done=4))
    return run


@pytest.fixture
def full_disk():
    """Return a context in which no file of this process can grow, as on a full disk."""

    @contextmanager
    def full():
        # Python ignores the signal that comes with it, so that writing fails with an error.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


@pytest.fixture(scope="session")
def fold_events() -> Callable[[Iterable[Event]], SanctumSnapshot]:
    """A function that folds events into a snapshot."""

    def folded(events):
        aggregator = SanctumAggregator()
        for event in events:
            aggregator.apply(event)
        return aggregator.snapshot()

    return folded


@pytest.fixture(scope="session")
def fold(payloads, fold_events) -> Callable[..., SanctumSnapshot]:
    """A function that folds payloads, as events one second apart, into a snapshot."""
    return lambda *these: fold_events(payloads.events(*these))


@pytest.fixture
def passing_run(run, payloads):
    """A run with what is no minibatch's: a broken host, acting, given state, and a transient."""
    sightings = {
        3: {"head": "hosts", "quantity": "loss", "phase": "hosts", "host": 0, "step": 5},
        5: {"head": "shared", "quantity": "parameters", "phase": "given", "part": "lstm.bias"},
        6: {"head": "shared", "quantity": "trunk", "epoch": 1, "minibatch": 2},
        8: {"head": "op", "phase": "acting", "host": 1, "step": 7, "count": 3},
    }
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update, seen in sightings.items():
            fields = {"kind": "nan", "epoch": 0, "minibatch": 0, "reproduced": update != 6} | seen
            writer.emit(payloads.update(update, head_nonfinite=[payloads.sighting(**fields)]))
        writer.emit(InterventionTaken(update=6, action="repeat", cause="", reason=""))
        writer.emit(payloads.finish(update=8))
    return run


@pytest.fixture
def ask(run):
    """A function that asks the run's store."""

    def asked(query, *values):
        with closing(sqlite3.connect(run / "run.sqlite")) as connection:
            return connection.execute(query, values).fetchall()

    return asked

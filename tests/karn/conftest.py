"""Runs on the disk, empty and finished, and folds of events without any disk."""

import resource
from collections.abc import Callable, Iterable
from contextlib import contextmanager

import pytest

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import Event


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

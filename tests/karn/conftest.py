"""A run directory that is empty, and one with a finished run in it."""

import pytest

from esper.karn.run_store import RunWriter, create_run


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

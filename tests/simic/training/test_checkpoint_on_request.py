"""SIGUSR1: a checkpoint of the last update is written, and training continues."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.leyline.files.checkpoint_file import checkpoints_in
from esper.leyline.telemetry import CheckpointWritten, Notice, RunFinished
from esper.simic.training import trainer
from esper.simic.training.process.stopping import stop_on_signal

Train = Callable[..., tuple[RunFinished, Any]]


def test_a_checkpoint_is_written_in_the_middle_of_a_batch_and_training_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit_episodes, found = trainer.emit_episodes, []

    def emit_and_ask(*arguments: Any, update: int, **options: Any) -> Any:
        found.append([one.update for one in checkpoints_in(tmp_path / "checkpoints")])
        if update in (1, 4):
            os.kill(os.getpid(), signal.SIGUSR1)
        return emit_episodes(*arguments, update=update, **options)

    monkeypatch.setattr(trainer, "emit_episodes", emit_and_ask)
    with stop_on_signal(lambda _line: None) as stop:
        ending, log = train(stop, episodes=12, checkpoint_every=5)
    assert (ending.status, ending.update) == ("finished", 6)
    # Asked for at the end of a batch: written after the first step of the next.
    assert [one.update for one in log.of(CheckpointWritten)] == [1, 4, 5, 6]
    assert found[1:] == [[1], [1], [1], [1, 4], [4, 5]]
    lines = [one.text for one in log.of(Notice) if "asked for" in one.text]
    assert lines == [f"asked for a checkpoint: the newest is of update {n}" for n in (1, 4)]


def test_a_request_before_the_first_update_has_nothing_to_write(train: Train) -> None:
    with stop_on_signal(lambda _line: None) as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        ending, log = train(stop, episodes=2)
    assert ending.status == "finished"
    assert any("the newest follows the first update" in one.text for one in log.of(Notice))


def test_a_signal_to_every_rank_gets_one_answer(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = trainer.CheckpointWriter.write_on_request

    def of_every_rank(self: trainer.CheckpointWriter) -> None:
        write(self)
        write(self)

    monkeypatch.setattr(trainer.CheckpointWriter, "write_on_request", of_every_rank)
    with stop_on_signal(lambda _line: None) as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        _, log = train(stop, episodes=2)
    assert len([one for one in log.of(Notice) if "asked for" in one.text]) == 1

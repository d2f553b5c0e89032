"""Trains a locked run in this process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from esper.karn.store.writing.run_writer import RunWriter
from esper.leyline.files.checkpoint_file import CHECKPOINTS_NAME, checkpoints_in, newest_whole
from esper.leyline.telemetry import Notice, RunFinished
from esper.services.launch.among_ranks import RankStart
from esper.services.run_lock import HeldRun
from esper.simic.config import TrainingConfig
from esper.simic.training.process.gpu_load import gpu_load
from esper.simic.training.process.outputs import OutputTroubles
from esper.simic.training.process.stopping import StoppedAtOnce, StopRequest, stop_on_signal

if TYPE_CHECKING:
    from esper.simic.training.progress import ProgressReport

#: Time limit for closing the store after a request to stop at once, in seconds.
_HURRIED_SECONDS = 1.0


@dataclass(frozen=True)
class TrainingOutcome:
    """How training ended.

    Attributes:
        ending: the last event of the run.
        is_complete: whether the store has every event and the last checkpoint was written.
        is_hurried: whether the user asked to stop at once: the process should end without delay.
    """

    ending: RunFinished
    is_complete: bool
    is_hurried: bool


def train_run(
    run: HeldRun,
    config: TrainingConfig,
    progress: "ProgressReport",
    *,
    report_store: Callable[[str], None],
    report_stop: Callable[[str], None],
    troubles: OutputTroubles,
    rank: RankStart | None = None,
) -> TrainingOutcome:
    """Train a run until it is finished, stopped or halted.

    Args:
        run: the run, locked.
        config: its settings.
        progress: console progress reporter.
        report_store: receives a sentence for each problem of the store's writer.
        report_stop: receives a line for each signal; called from the signal handler.
        troubles: reports outputs that cannot be written, in the run's log as well.
        rank: the start of this process as one of several ranks; None if it trains alone.
    """
    directory = run.directory
    # Signal handlers come first: a request to stop also counts while PyTorch is loaded.
    with (
        stop_on_signal(report_stop) as stop,
        RunWriter(
            directory, report_store, limit_bytes=config.store_megabytes * 2**20, gpu=gpu_load
        ) as writer,
        progress,
    ):
        stop.when_at_once(writer.hurry)
        troubles.add(lambda line: writer.emit(Notice(level="warning", text=line)))
        if run.doubt:
            progress.say(run.doubt)
            writer.emit(Notice(level="warning", text=run.doubt))
        # Loading takes seconds; without this event, Sanctum would have nothing to show.
        writer.emit(Notice(level="info", text="loading PyTorch"))
        progress.stage("loading PyTorch")
        try:
            with stop.interruptible():
                from esper.simic.training.trainer import train
        except StoppedAtOnce:
            ending = _stopped_early(directory)
            progress.say(f"{ending.status}: {ending.reason}")
            writer.emit(ending, durable=True)
        else:
            if rank is None:
                ending = train(config, directory, writer, progress, stop)
            else:
                ending = _train_among(rank, config, directory, writer, progress, stop)
        if stop.at_once:
            writer.close(_HURRIED_SECONDS)
    written = [one.update for one in checkpoints_in(directory / CHECKPOINTS_NAME)]
    is_writer = rank is None or rank.is_first
    has_checkpoint = not is_writer or ending.update == 0 or ending.update in written
    return TrainingOutcome(
        ending,
        is_complete=has_checkpoint and not writer.events_lost,
        is_hurried=stop.at_once,
    )


def _train_among(
    rank: RankStart,
    config: TrainingConfig,
    run: Path,
    writer: RunWriter,
    progress: "ProgressReport",
    stop: StopRequest,
) -> RunFinished:
    """Train as one of several ranks; a stop while the ranks connect is recorded as well."""
    from esper.simic.training.ranks.own_events import OwnEvents
    from esper.simic.training.trainer import train

    writer_of_rank = writer if rank.is_first else OwnEvents(writer)
    try:
        with rank.joined(config, run, stop) as ranks:
            return train(config, run, writer_of_rank, progress, stop, ranks)
    except StoppedAtOnce:  # while the ranks joined
        ending = _stopped_early(run)
        if stop.lost:
            ending = msgspec.structs.replace(ending, status="failed", reason=stop.lost)
        progress.say(f"{ending.status}: {ending.reason}")
        writer.emit(ending, durable=True)
        return ending


def _stopped_early(run: Path) -> RunFinished:
    summary = newest_whole(run / CHECKPOINTS_NAME).summary
    return RunFinished(
        status="stopped",
        update=summary.update if summary else 0,
        episodes_done=summary.episodes_done if summary else 0,
        reason="asked to stop before training began; the run can be resumed",
    )

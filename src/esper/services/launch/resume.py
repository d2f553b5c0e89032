"""Prepares a run to be resumed; all checks come before any change."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from esper.karn.store.liveness import StatusKind
from esper.karn.store.reading.recorded_settings import settings_at_start, watched_library
from esper.karn.store.run_directory import CONFIG_NAME, check_store_path, find_run
from esper.leyline.files.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    CheckpointSummary,
    newest_whole,
    unsealed_sentence,
)
from esper.leyline.task_names import parse_task_name
from esper.leyline.text.plurals import counted
from esper.services.launch.other_machine import check_not_trained_elsewhere
from esper.services.launch.settings_checks import check_settings, load_fingerprint, save_config
from esper.services.run_lock import HeldRun
from esper.simic.config import (
    RESUMABLE_SETTINGS,
    ConfigError,
    TrainingConfig,
    check_same_settings,
    load_config,
    option_of,
    updated_by_options,
    value_of,
)
from esper.simic.drill import scheduled
from esper.simic.training.run_data import DataRecord, check_same_data, read_records, record_data

#: Status of a run that ended regularly; with all episodes trained, there is nothing to resume.
_ENDED = (StatusKind.FINISHED, StatusKind.STOPPED, StatusKind.HALTED)


class RunCompleteError(ConfigError):
    """The run has trained all its episodes; the message says how to train more."""


def prepare_resume(
    run_dir: Path,
    reference: str,
    given: Mapping[str, Any],
    *,
    config_file: Path | None,
    name: str,
    report: Callable[[str], None],
    force: bool = False,
    data_changed: bool = False,
) -> HeldRun:
    """Check that a run can resume, lock it, and write changed settings into its directory.

    Nothing in the run's directory changes before the lock is held.

    Args:
        run_dir: the folder that holds runs.
        reference: the run, as for `find_run`.
        given: settings by name; only `RESUMABLE_SETTINGS` may differ from those of the run.
        config_file, name: refused, because they cannot change.
        report: receives warnings and the reason for a wait, a sentence each.
        force: resume although a process on another machine has a fresh heartbeat.
        data_changed: resume although the data of the task has changed.

    Raises:
        RunNotFoundError: there is no such run.
        CheckpointError: the run has checkpoints, and all of them are damaged.
        RunCompleteError: the run has trained all its episodes.
        ConfigError: the run is watched or is being trained, its config is damaged, a setting cannot
            change, or the data of its task has changed.
    """
    if "task" in given:  # a run records the absolute path of its data
        given = {**given, "task": parse_task_name(given["task"]).absolute}
    run = find_run(run_dir, reference)
    check_store_path(run)
    if library := watched_library(run):
        raise ConfigError(
            f"{run.name} is a watched run ({library}): only its own training script can continue it"
        )
    recorded = settings_at_start(run)
    config = load_config(run / CONFIG_NAME, recorded)
    if recorded is not None:
        check_same_settings(config, recorded, "its start event")
    _check_changes(config, given, config_file, name)
    check_not_trained_elsewhere(run, force=force, report=report)
    # The lock comes first: a run that another process trains is not changed.
    held = HeldRun(run)
    try:
        before = load_config(run / CONFIG_NAME, recorded)
        config = updated_by_options(before, given)
        check_settings(config, given)
        checkpoint = _newest_checkpoint(run, report)
        _check_against_checkpoint(run, config, before, checkpoint)
        data = _check_data(run, config, checkpoint, data_changed=data_changed)
        if data_changed:
            _record_data(data, run)
        save_config(config, run)
    except BaseException:  # KeyboardInterrupt, too; raised again
        held.close()
        raise
    return held


def _check_changes(
    config: TrainingConfig, given: Mapping[str, Any], config_file: Path | None, name: str
) -> None:
    """Check that only settings that may change when a run resumes are given."""
    fixed = [
        setting
        for setting, value in given.items()
        if setting not in RESUMABLE_SETTINGS and value != value_of(config, setting)
    ]
    if config_file is not None or name or fixed:
        what = "--config" if config_file else "--name" if name else option_of(fixed[0])
        can = ", ".join(map(option_of, RESUMABLE_SETTINGS))
        raise ConfigError(f"{what} cannot change when a run is resumed; only {can} can")


def _newest_checkpoint(run: Path, report: Callable[[str], None]) -> CheckpointSummary | None:
    """Return the summary of the checkpoint that a resume starts from; None if there is none.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    newest = newest_whole(run / CHECKPOINTS_NAME)
    if newest.summary is None and newest.passed_over:
        sentences = "; ".join(newest.passed_over)
        raise CheckpointError(f"{run.name} has no undamaged checkpoint: {sentences}")
    if newest.summary is None:
        report(f"{run.name} has no checkpoint: training starts again at update 1")
    if newest.path is not None and newest.summary is not None and not newest.summary.is_sealed:
        report(unsealed_sentence(newest.path))
    return newest.summary


def _check_against_checkpoint(
    run: Path,
    config: TrainingConfig,
    before: TrainingConfig,
    checkpoint: CheckpointSummary | None,
) -> None:
    """Check that a run is not complete, and that its settings fit its checkpoint.

    The checkpoint determines where training resumes. Later updates in the store are trained again.

    Args:
        run: the run's directory.
        config: its new settings.
        before: its settings until now; drills in them may refer to past updates.
        checkpoint: the checkpoint that training resumes from; None if there is none.

    Raises:
        ConfigError: the run is complete, a setting differs from the checkpoint, or a new drill is
            scheduled for a past update.
    """
    update, done = (checkpoint.update, checkpoint.episodes_done) if checkpoint else (0, 0)
    if checkpoint is not None:
        check_same_settings(config, checkpoint.settings, f"the checkpoint of update {update}")
    for drill in scheduled(config) if config.inject != before.inject else ():
        if drill.update <= update:
            raise ConfigError(
                f"--inject {drill}: update {update} of {run.name} is done already; give a later one"
            )
    # A run that was killed after its last update still needs its end event.
    if done >= config.episodes and _status(run) in _ENDED:
        raise RunCompleteError(
            f"{run.name} has trained {counted(done, 'episode')} already; "
            "give a larger --episodes to train more"
        )


def _status(run: Path) -> StatusKind:
    from esper.karn.sanctum.following.follower import RunFollower  # needed only here

    return RunFollower(run).catch_up().status.kind


def _check_data(
    run: Path,
    config: TrainingConfig,
    checkpoint: CheckpointSummary | None,
    *,
    data_changed: bool,
) -> DataRecord:
    """Return the data on which the run would be trained from now on.

    Raises:
        ConfigError: the data has changed without `data_changed`, or has not changed with it.
    """
    records = read_records(run)
    fingerprint = load_fingerprint(config, always=bool(records))
    is_same = not fingerprint or fingerprint in [record.fingerprint for record in records[-1:]]
    if data_changed and is_same:
        raise ConfigError(
            f"the data of {run.name} has not changed since it was trained: leave out --data-changed"
        )
    if not data_changed:
        check_same_data(run, config.task, fingerprint)
    return DataRecord(fingerprint, checkpoint.update if checkpoint else 0)


def _record_data(data: DataRecord, run: Path) -> None:
    try:
        record_data(run, data.fingerprint, data.after_update)
    except OSError as error:
        raise ConfigError(f"cannot write into {run}: {error.strerror}") from error

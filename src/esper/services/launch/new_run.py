"""Creates a run."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.karn.store.run_directory import create_run
from esper.leyline.task_names import parse_task_name
from esper.services.launch.settings_checks import check_settings, load_fingerprint, save_config
from esper.services.run_lock import HeldRun
from esper.simic.config import (
    ConfigError,
    TrainingConfig,
    updated,
    updated_by_file,
    updated_by_options,
)


def given_settings(given: Mapping[str, Any], config_file: Path | None) -> TrainingConfig:
    """Return the settings of a new run.

    Args:
        given: settings by name; they override the settings file.
        config_file: a settings file; None for the defaults.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    config = TrainingConfig()
    if config_file is not None:
        config = updated_by_file(config, config_file)
    return updated_by_options(config, given)


def prepare_run(
    run_dir: Path, name: str, given: Mapping[str, Any], config_file: Path | None
) -> HeldRun:
    """Check the settings, create the run's directory, write them there and lock the run.

    Args:
        run_dir: the folder that holds runs.
        name: name of the run; the task's name if empty.
        given: settings by name; they override the settings file.
        config_file: a settings file; None for the defaults.

    Raises:
        ConfigError: a setting is unknown or out of range, or the directory cannot be created.
        UnknownTaskError, InvalidTaskError: the task or its data cannot be used.
    """
    config = given_settings(given, config_file)
    check_settings(config, given)
    load_fingerprint(config)
    # Store the number of environments, because its default depends on the number of episodes, which
    # a resume may change. Make the path of the task's data absolute: a resume may start elsewhere.
    task = parse_task_name(config.task)
    config = updated(config, {"envs": config.num_envs, "task": task.absolute})
    try:
        run = create_run(run_dir, name or task.short)
    except OSError as error:
        raise ConfigError(f"cannot create a run in {run_dir}: {error.strerror}") from error
    held = HeldRun(run)
    try:
        save_config(config, run)
    except BaseException:  # KeyboardInterrupt, too; raised again
        held.close()
        shutil.rmtree(run, ignore_errors=True)  # it holds only empty files
        raise
    return held

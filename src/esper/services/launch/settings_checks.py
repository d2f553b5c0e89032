"""Checks that a run can start with its settings, made before it is created or resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.karn.store.run_directory import CONFIG_NAME
from esper.leyline.task_names import check_task, parse_task_name
from esper.simic.config import ConfigError, TrainingConfig, check_device, write_config
from esper.simic.drill import scheduled


def check_settings(config: TrainingConfig, given: Mapping[str, Any]) -> None:
    """Check the task, the device and the drills of a run.

    Args:
        config: the run's settings.
        given: settings from the command line; errors name them as options.

    Raises:
        UnknownTaskError, InvalidTaskError: the task or its data does not exist.
        ConfigError: the device or a drill cannot be used.
    """
    check_task(parse_task_name(config.task))
    try:
        scheduled(config)
        check_device(config.device)
        if config.device == "cuda":
            from esper.simic.environment import resolve_device

            resolve_device(config.device)
    except ConfigError as error:
        raise (error.as_typed() if error.setting in given else error) from error


def load_fingerprint(config: TrainingConfig, *, always: bool = False) -> str:
    """Load the task, to find errors in its data before the run is changed.

    Args:
        config: the run's settings.
        always: whether to load built-in tasks, too; their data cannot change.

    Returns:
        The fingerprint of the task's data; empty if it was not loaded or cannot change.
    """
    if not (always or parse_task_name(config.task).place):
        return ""
    from esper.growth.tasks.loading import load_task

    return load_task(config.task).fingerprint


def save_config(config: TrainingConfig, run: Path) -> None:
    """Write the settings into a run's directory.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        write_config(config, run / CONFIG_NAME)
    except OSError as error:
        raise ConfigError(f"cannot write {run / CONFIG_NAME}: {error.strerror}") from error

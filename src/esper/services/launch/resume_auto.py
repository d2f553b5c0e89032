"""`--resume auto`: resumes the newest run with a name, or creates a new one.

This is useful with schedulers, which restart the same command.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from esper.karn.store.reading.recorded_settings import watched_library
from esper.karn.store.run_directory import CONFIG_NAME, runs_named
from esper.leyline.task_names import parse_task_name
from esper.services.launch.new_run import given_settings, prepare_run
from esper.services.launch.resume import RunCompleteError, prepare_resume
from esper.services.run_lock import HeldRun
from esper.simic.config import read_config

#: The value of --resume that this module handles.
AUTO: Final = "auto"


class NothingLeftError(RunCompleteError):
    """A scheduler restarted a complete run; this is not a failure."""


def prepare_newest(
    run_dir: Path,
    given: Mapping[str, Any],
    *,
    config_file: Path | None,
    name: str,
    report: Callable[[str], None],
    force: bool = False,
    data_changed: bool = False,
) -> HeldRun:
    """Prepare the newest run of a name to be resumed, or a new one if there is none.

    Args:
        run_dir: the folder that contains runs.
        given: settings by name; they override the settings file. When a run is resumed, only
            `RESUMABLE_SETTINGS` may differ from those of the run.
        config_file: a settings file; None for the defaults.
        name: name of the run; the task's name if empty.
        report: receives sentences: the chosen run, warnings, and reasons for waiting.
        force, data_changed: as in `prepare_resume`.

    Raises:
        NothingLeftError: the newest run of that name has trained all its episodes.
        All other exceptions of `prepare_resume` and `prepare_run`.
    """
    config = given_settings(given, config_file)
    name = name or parse_task_name(config.task).short
    known = [
        run
        for run in runs_named(run_dir, name)
        if (run / CONFIG_NAME).exists() and not watched_library(run)
    ]
    if not known:
        return prepare_run(run_dir, name, given, config_file)
    report(f"--resume auto: resuming {known[-1].name}")
    in_file = {} if config_file is None else read_config(config_file)
    try:
        return prepare_resume(
            run_dir,
            str(known[-1]),
            {**in_file, **given},
            config_file=None,
            name="",
            report=report,
            force=force,
            data_changed=data_changed,
        )
    except RunCompleteError as error:
        raise NothingLeftError(str(error)) from error

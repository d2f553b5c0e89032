"""The alert process that `esper ppo` and `esper run` start beside their run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ALERTS_LOG_NAME: Final = "alerts.log"
#: Environment variable with the settings file of alerts.
ALERT_CONFIG: Final = "ESPER_ALERT_CONFIG"


def alert_config(given: Path | None) -> Path | None:
    """Return the settings file of alerts, checked before a run is made; None if there is none.

    Args:
        given: the option; by default the variable `ESPER_ALERT_CONFIG` counts.

    Raises:
        AlertSettingsError: the file cannot be used; the message says why.
    """
    path = given or Path(os.environ.get(ALERT_CONFIG, ""))
    if path == Path():
        return None
    from esper.karn.alerts.settings import read_settings, sinks_of, usable

    settings = usable(read_settings(path), path)
    sinks_of(settings, path.absolute().parent)
    return path


def start_alerts(run: Path, config: Path | None) -> str:
    """Start `esper alert` for a run, in a session of its own, so that it outlives the trainer.

    It ends by itself after this process has ended, the run is over and everything was told.

    Args:
        run: the run's directory.
        config: its settings file; None starts nothing.

    Returns:
        Why it could not be started, a sentence; else an empty string.
    """
    if config is None:
        return ""
    command = [sys.executable, "-m", "esper", "alert", str(run.absolute())]
    command += ["--config", str(config.absolute()), "--with-process", str(os.getpid())]
    try:
        with (run / ALERTS_LOG_NAME).open("ab") as log:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        return f"alerts could not be started: {error.strerror}"
    return ""

"""The alert process that `esper ppo` and `esper run` start for their run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ALERTS_LOG_NAME: Final = "alerts.log"
#: Environment variable with the path of the alert settings file.
ALERT_CONFIG: Final = "ESPER_ALERT_CONFIG"


def alert_config(given: Path | None) -> Path | None:
    """Return the alert settings file after checking it; None if there is none.

    Args:
        given: value of --alert-config; the default is the variable `ESPER_ALERT_CONFIG`.

    Raises:
        AlertSettingsError: the file is invalid.
    """
    path = given or Path(os.environ.get(ALERT_CONFIG, ""))
    if path == Path():
        return None
    from esper.karn.alerts.settings import read_settings, sinks_of, usable

    settings = usable(read_settings(path), path)
    sinks_of(settings, path.absolute().parent)
    return path


def start_alerts(run: Path, config: Path | None) -> str:
    """Start `esper alert` for a run, in a new session that survives the training process.

    It exits after this process and the run have ended and all alerts were sent.

    Args:
        run: the run's directory.
        config: the alert settings file; with None, nothing is started.

    Returns:
        A sentence with the reason if it could not be started; otherwise an empty string.
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

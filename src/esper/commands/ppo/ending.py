"""The end of `esper ppo`: exit codes and the last lines."""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from esper.karn.store.errors import RunStoreError
from esper.leyline.text.plain_text import printable
from esper.services.launch.train import TrainingOutcome

#: Training finished or stopped, but an event is missing from the store or the last checkpoint
#: could not be written.
EXIT_CODE_INCOMPLETE = 4
_EXIT_CODES = {"finished": 0, "failed": 1, "stopped": 130, "halted": 3}


def exit_code(outcome: TrainingOutcome) -> int:
    """Return the exit code of a training process."""
    status = outcome.ending.status
    if not outcome.is_complete and status in ("finished", "stopped"):
        return EXIT_CODE_INCOMPLETE
    return _EXIT_CODES[status]


def child_exit_code(outcome: TrainingOutcome) -> int:
    """Return the exit code of the process behind Sanctum; 0 if the user stopped it."""
    is_stopped = outcome.ending.status == "stopped" and outcome.is_complete
    return 0 if is_stopped else exit_code(outcome)


def closing_lines(run: Path) -> list[str]:
    """Return the last lines of a run that ended: verdict, score and next commands."""
    from esper.karn.reports import run_end

    return run_end.closing_lines(run)


def print_ending(run: Path, lines: Sequence[str]) -> None:
    """Print the health of a run that ended, and its closing lines."""
    from esper.commands.health import print_health

    try:
        print_health(run.parent, str(run), as_json=False, fail_on="")
    except RunStoreError as error:
        print(printable(str(error)), file=sys.stderr)
    print()
    for line in lines:
        print(_wrapped(printable(line)))
    sys.stdout.flush()


def _wrapped(line: str) -> str:
    """Return a line wrapped to the terminal's width; indented lines (commands) are not wrapped."""
    if line.startswith(" ") or not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, max(width, 20), break_long_words=False, break_on_hyphens=False)


def end_at_once(code: int) -> NoReturn:
    """End the process without unloading PyTorch, after everything was written and closed.

    Unloading takes another 2 s, and the sender of a SIGTERM may not wait that long.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def end_unsuccessfully(sentence: str) -> NoReturn:
    """End a process whose main thread does not respond because it waits for lost ranks.

    Args:
        sentence: why the run is over.
    """
    with suppress(OSError):
        os.write(2, f"esper: {sentence}; this process did not respond and was ended\n".encode())
    os._exit(1)

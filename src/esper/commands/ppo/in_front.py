"""Training in this process, with progress on the terminal or in the log behind Sanctum."""

import os
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.commands.ppo.ending import (
    child_exit_code,
    closing_lines,
    end_at_once,
    exit_code,
    print_ending,
)
from esper.karn.store.run_directory import CONFIG_NAME, CONSOLE_NAME
from esper.services.launch.among_ranks import RankStart
from esper.services.launch.train import train_run
from esper.services.run_lock import HeldRun
from esper.simic.config import ConfigError, load_config
from esper.simic.training.process.outputs import GuardedStream, LogFile, OutputTroubles

if TYPE_CHECKING:
    from esper.simic.training.progress import ProgressReport


def train_in_front(run: HeldRun, rank: RankStart | None = None) -> int:
    """Train with progress on this terminal, and in the console log; return the exit code.

    Args:
        run: the run, locked.
        rank: the start of this process as rank 0 of several; None if it trains alone.
    """
    from esper.simic.training.progress import PlainLines, Several

    directory = run.directory
    config = load_config(directory / CONFIG_NAME)
    troubles = OutputTroubles()
    with closing(console_log(directory)) as file:
        log = PlainLines(
            config.episodes, GuardedStream(lambda: file, str(directory / CONSOLE_NAME), troubles)
        )
        errors = PlainLines(config.episodes, GuardedStream(lambda: sys.stderr, "standard error"))
        for place in (errors, log):
            troubles.add(place.say)
        outcome = train_run(
            run,
            config,
            Several((_on_screen(config.episodes, troubles), log)),
            report_store=Several((errors, log)).say,
            report_stop=report_stop,
            troubles=troubles,
            rank=rank,
        )
        if not outcome.is_hurried:
            # The run has ended: an output that cannot be written no longer matters. Rich exits
            # the program at a broken pipe.
            with suppress(OSError, ValueError, SystemExit):
                lines = closing_lines(directory)
                for line in lines:
                    log.say(line)
                print_ending(directory, lines)
    code = exit_code(outcome)
    if outcome.is_hurried:
        end_at_once(code)
    return code


def train_behind(directory: Path, lock: int | None) -> int:
    """Train as the process behind Sanctum: standard output is the run's console log.

    Args:
        directory: the run's directory.
        lock: descriptor of the run's lock, if the parent process holds it.
    """
    from esper.simic.training.progress import PlainLines

    with HeldRun(directory, lock) as run:
        config = load_config(directory / CONFIG_NAME)
        troubles = OutputTroubles()
        log = PlainLines(config.episodes, GuardedStream(lambda: sys.stdout, CONSOLE_NAME, troubles))
        outcome = train_run(
            run,
            config,
            log,
            report_store=log.say,
            report_stop=report_stop,
            troubles=troubles,
        )
        if not outcome.is_hurried:
            for line in closing_lines(directory):
                log.say(line)  # for a user who detached and reads the log later
    code = child_exit_code(outcome)
    if outcome.is_hurried:
        end_at_once(code)
    return code


def _on_screen(episodes: int, troubles: OutputTroubles) -> "ProgressReport":
    """Return a bar on a terminal, plain lines elsewhere."""
    from esper.simic.training.progress import PlainLines, ProgressBar

    if not sys.stdout.isatty():
        stream = GuardedStream(lambda: sys.stdout, "standard output", troubles)
        return PlainLines(episodes, stream)
    from rich.console import Console

    terminal = sys.stdout
    guarded: Any = GuardedStream(lambda: terminal, "the terminal", troubles)
    return ProgressBar(episodes, Console(file=guarded, highlight=False))


def console_log(run: Path) -> LogFile:
    """Open the console log of a run.

    Raises:
        ConfigError: the log cannot be written.
    """
    try:
        return LogFile(run / CONSOLE_NAME)
    except OSError as error:
        raise ConfigError(f"cannot write {run / CONSOLE_NAME}: {error.strerror}") from error


def report_stop(line: str) -> None:
    """Print a line from a signal handler."""
    # Not print(), which is not reentrant: the signal may have interrupted one.
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode())

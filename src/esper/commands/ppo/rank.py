"""`esper ppo` as one of several processes that torchrun or a similar launcher started."""

import argparse
from contextlib import closing
from typing import Any

from esper.commands.data.mirror import mirrored
from esper.commands.options import OptionError
from esper.commands.output import print_warning
from esper.commands.ppo.ending import end_at_once, end_unsuccessfully, exit_code
from esper.commands.ppo.in_front import console_log, report_stop, train_in_front
from esper.karn.store.rank_folders import Rank
from esper.karn.store.run_directory import CONFIG_NAME, CONSOLE_NAME
from esper.leyline.errors import EsperError
from esper.services.launch.alert_process import start_alerts
from esper.services.launch.among_ranks import Prepare, RankStart, RefusedElsewhereError
from esper.services.launch.train import train_run
from esper.services.run_lock import HeldRun
from esper.simic.config import load_config
from esper.simic.training.process.outputs import GuardedStream, OutputTroubles


def check_rank_options(options: argparse.Namespace, rank: Rank) -> None:
    """Reject options that do not apply to several ranks.

    Raises:
        OptionError: --processes was given.
    """
    if hasattr(options, "processes"):
        raise OptionError(
            f"--processes cannot be used under torchrun, whose {rank.world_size} processes already "
            "divide the hosts: leave out --processes"
        )


def train_as_rank(options: argparse.Namespace, rank: Rank, prepare: Prepare, alerts: Any) -> int:
    """Train as one rank; return the exit code.

    Rank 0 prints the same as a process that trains alone. The others only write their own console
    logs.

    Args:
        options: the command-line options.
        rank: rank of this process, as set by the launcher.
        prepare: prepares the run; called only in rank 0.
        alerts: settings file of alerts; None for no alerts.
    """
    start = RankStart(rank, end_unsuccessfully)
    if start.is_first:
        with start.run(prepare) as run, mirrored(run.directory, options.log_to):
            if sentence := start_alerts(run.directory, alerts):
                print_warning(sentence)
            return train_in_front(run, start)
    try:
        with start.run(prepare) as run:
            return _train_quietly(run, start)
    except RefusedElsewhereError as error:
        return 0 if error.is_complete else 2
    except EsperError as error:
        raise type(error)(f"rank {rank.rank}: {error}") from error


def _train_quietly(run: HeldRun, start: RankStart) -> int:
    """Train as a rank other than the first, with progress in its own console log."""
    from esper.simic.training.progress import PlainLines

    directory = run.directory
    config = load_config(directory / CONFIG_NAME)
    troubles = OutputTroubles()
    with closing(console_log(directory)) as file:
        log = PlainLines(
            config.episodes, GuardedStream(lambda: file, str(directory / CONSOLE_NAME), troubles)
        )
        troubles.add(log.say)
        outcome = train_run(
            run,
            config,
            log,
            report_store=log.say,
            report_stop=_report_lost,
            troubles=troubles,
            rank=start,
        )
    code = exit_code(outcome)
    if outcome.is_hurried:
        end_at_once(code)
    return code


def _report_lost(line: str) -> None:
    """Print the line if it says that rank 0 is lost; rank 0 itself prints all others."""
    if line.startswith("rank 0 "):
        report_stop(line)

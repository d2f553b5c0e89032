"""Commands for a run, ready to paste, without options that have their default value."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from esper.karn.sanctum.fold.ranks.rank_state import RankState
from esper.karn.store.run_directory import default_run_dir
from esper.leyline.text.command_lines import command_line, torchrun_line

_RENDEZVOUS_PORT: Final = 29_500  # torchrun's own default


def run_command(run: Path, program: str, *words: object, more: tuple[object, ...] = ()) -> str:
    """Return a command for a run.

    Args:
        run: the run's directory.
        program: `esper` or `sanctum`.
        words: arguments before the run's id.
        more: arguments after it.
    """
    return command_line(program, *words, run.name, *more, *run_dir_options(run.parent))


def resume_command(run: Path, ranks: Sequence[RankState], more: tuple[object, ...] = ()) -> str:
    """Return a command that resumes a run, with as many processes as it had.

    For a run on several machines it is a command for each of them.

    Args:
        run: the run's directory.
        ranks: its ranks; empty for a run of one process.
        more: arguments after the run's id.
    """
    words = ("ppo", "--resume", run.name, *more, *run_dir_options(run.parent))
    if not ranks:
        return command_line("esper", *words)
    machines = list(dict.fromkeys(one.machine for one in ranks if one.machine)) or [""]
    each = -(-len(ranks) // len(machines))
    options: list[object] = ["--nproc-per-node", each]
    if len(machines) > 1:
        place = f"{machines[0]}:{_RENDEZVOUS_PORT}"
        options = ["--nnodes", len(machines), *options]
        options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", place]
    return torchrun_line(options, *words)


def run_dir_options(run_dir: Path) -> tuple[object, ...]:
    """Return the option for the folder of runs; empty if it is the default."""
    if run_dir.absolute() == default_run_dir().absolute():
        return ()
    return "--run-dir", run_dir

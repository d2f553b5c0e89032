"""Commands for a run, ready to paste, without options that have their default value."""

from pathlib import Path

from esper.karn.store.run_directory import default_run_dir
from esper.leyline.text.command_lines import command_line


def run_command(run: Path, program: str, *words: object, more: tuple[object, ...] = ()) -> str:
    """Return a command for a run.

    Args:
        run: the run's directory.
        program: `esper` or `sanctum`.
        words: arguments before the run's id.
        more: arguments after it.
    """
    return command_line(program, *words, run.name, *more, *run_dir_options(run.parent))


def run_dir_options(run_dir: Path) -> tuple[object, ...]:
    """Return the option for the folder of runs; empty if it is the default."""
    if run_dir.absolute() == default_run_dir().absolute():
        return ()
    return "--run-dir", run_dir

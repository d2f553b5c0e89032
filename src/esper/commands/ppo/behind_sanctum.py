"""Training in a process behind Sanctum, which shows it on this terminal."""

from pathlib import Path

from esper.commands.ppo.ending import closing_lines, print_ending
from esper.commands.shown_process import wait_behind_sanctum
from esper.karn.store.run_directory import CONSOLE_NAME
from esper.services.launch.training_process import TrainingProcess
from esper.services.run_lock import HeldRun


def train_behind_sanctum(held: HeldRun, run_dir: Path) -> int | None:
    """Start a training process and show it in Sanctum.

    Returns:
        The exit code; None if the user detached from it.
    """
    run = held.directory
    child = TrainingProcess(held)
    code = wait_behind_sanctum(
        run,
        run_dir,
        child,
        detached="Training continues",
        stopping="Training stops after the current update. Ctrl-C stops it at once.",
        stop_at_once=child.stop,
    )
    if code is None:
        return None
    print_ending(run, closing_lines(run))
    if code not in (0, 3):
        print(f"Training ended with exit code {code}; its output is in {run / CONSOLE_NAME}")
    return code

"""Training in a process behind Sanctum, which shows it on this terminal."""

from pathlib import Path

from esper.commands.ppo.ending import closing_lines, print_ending
from esper.karn.reports.run_commands import run_command
from esper.karn.store.run_directory import CONSOLE_NAME
from esper.launch.training_process import TrainingProcess
from esper.run_lock import HeldRun


def train_behind_sanctum(held: HeldRun, run_dir: Path) -> int:
    """Start a training process and show it in Sanctum; return the exit code."""
    run = held.directory
    child = TrainingProcess(held)
    from esper.karn.sanctum.cockpit.opening import run_sanctum

    choice = run_sanctum(run, run_dir, child)
    if choice == "detach":
        print(f"Training continues in process {child.pid}. Watch it with:")
        print(f"  {run_command(run, 'sanctum')}")
        return 0
    if choice == "stop":
        child.stop()
        print("Training stops after the current update. Ctrl-C stops it at once.")
        try:
            child.wait()
        except KeyboardInterrupt:
            child.stop()
            child.wait()
    code = child.wait()
    print_ending(run, closing_lines(run))
    if code not in (0, 3):
        print(f"Training ended with exit code {code}; its output is in {run / CONSOLE_NAME}")
    return code

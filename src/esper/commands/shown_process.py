"""A training process behind Sanctum, which shows it on this terminal."""

from collections.abc import Callable
from pathlib import Path

from esper.karn.reports.run_commands import run_command
from esper.services.launch.script_process import ScriptProcess
from esper.services.launch.training_process import TrainingProcess


def wait_behind_sanctum(
    run: Path,
    run_dir: Path,
    process: TrainingProcess | ScriptProcess,
    *,
    detached: str,
    stopping: str,
    stop_at_once: Callable[[], None],
) -> int | None:
    """Show a process in Sanctum, and wait for its end unless the user detaches from it.

    Args:
        run: the run's directory.
        run_dir: the folder that holds runs.
        process: the process that trains.
        detached: what the message says of a process that continues without Sanctum.
        stopping: message while a process that was asked to stop has not ended.
        stop_at_once: called when the user presses Ctrl-C in the meantime.

    Returns:
        The exit code of the process; None if the user detached from it.
    """
    from esper.karn.sanctum.cockpit.opening import run_sanctum

    choice = run_sanctum(run, run_dir, process)
    if choice == "detach":
        print(f"{detached} in process {process.pid}. Watch it with:")
        print(f"  {run_command(run, 'sanctum')}")
        return None
    if choice == "stop":
        process.stop()
        print(stopping)
        try:
            process.wait()
        except KeyboardInterrupt:
            stop_at_once()
    return process.wait()

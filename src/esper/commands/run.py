"""`esper run -- python train.py …`: run a training script that calls `esper.watch`, in Sanctum."""

import argparse
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from esper.commands.data.mirror import add_log_to, mirrored
from esper.commands.folder.alert import add_alert_config
from esper.commands.options import add_run_dir, add_verb
from esper.commands.output import print_warning
from esper.karn.store.run_directory import CONSOLE_NAME, STORE_NAME
from esper.karn.terminal import is_screen


def add_run_script(verbs: Any) -> None:
    """Add `run` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "run",
        run_script,
        "run a training script that calls esper.watch, and show it in Sanctum (on a terminal)",
    )
    parser.usage = "esper run [options] -- COMMAND ..."
    add_run_dir(parser)
    parser.add_argument("--name", default="", help="name of the run (default: the script's name)")
    parser.add_argument(
        "--no-sanctum",
        action="store_true",
        help="print the script's output instead of opening Sanctum",
    )
    add_log_to(parser)
    add_alert_config(parser)
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="the training program and its arguments, such as: -- python train.py --steps 1000",
    )


def run_script(options: argparse.Namespace) -> int:
    """Run the script; return its exit code."""
    from esper.services.launch.alert_process import alert_config, start_alerts
    from esper.services.launch.mirror_process import check_trackers
    from esper.services.launch.script_process import prepare_script_run

    command = [part for place, part in enumerate(options.command) if (place, part) != (0, "--")]
    check_trackers(options.log_to)
    alerts = alert_config(options.alert_config)
    run = prepare_script_run(options.run_dir, options.name, command)
    if sentence := start_alerts(run, alerts):
        print_warning(sentence)
    with mirrored(run, options.log_to) as mirror:
        if options.no_sanctum or not is_screen():
            return _in_front(run, command)
        code = _behind_sanctum(run, command, options.run_dir)
        if code is None:
            mirror.detach()
        return code or 0


def _in_front(run: Path, command: list[str]) -> int:
    """Run the script with its output on this terminal and in the run's console log."""
    from esper.services.launch.script_process import ScriptProcess

    process = ScriptProcess(run, command, _echo)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        # Ctrl-C reaches the script directly, because it is in the same process group.
        if number == signal.SIGTERM:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    code = process.wait()
    _print_end(run, code)
    return code


def _behind_sanctum(run: Path, command: list[str], run_dir: Path) -> int | None:
    """Show the script in Sanctum; return its exit code, or None if the user detached from it."""
    from esper.commands.shown_process import wait_behind_sanctum
    from esper.services.launch.script_process import ScriptProcess

    process = ScriptProcess(run, command)
    code = wait_behind_sanctum(
        run,
        run_dir,
        process,
        detached="The script continues",
        stopping="The script was interrupted. Ctrl-C ends it at once.",
        stop_at_once=process.terminate,
    )
    if code is None:
        return None
    _print_end(run, code)
    return code


def _echo(chunk: bytes) -> None:
    # A closed pipe does not end the training.
    with suppress(OSError, ValueError):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _print_end(run: Path, code: int) -> None:
    """Print the health of the run; if nothing was recorded, say that esper.watch is missing."""
    from esper.commands.ppo.ending import closing_lines, print_ending

    if (run / STORE_NAME).exists():
        with suppress(OSError):
            print_ending(run, closing_lines(run))
    else:
        print(f"The script recorded nothing: it did not call esper.watch. Output: {run}")
    if code not in (0, 3):
        print(f"The script ended with exit code {code}; its output is in {run / CONSOLE_NAME}")

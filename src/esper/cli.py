"""The programs `esper` and `sanctum`: parse the arguments, run the command and exit.

The commands are in `esper.commands`. Neither module imports torch or Textual until a command needs
it, so that help appears at once.
"""

import argparse
import codecs
import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from esper.commands.data.export import add_export
from esper.commands.data.mirror import add_mirror, mirror_run
from esper.commands.data.query import add_query
from esper.commands.eval import add_eval
from esper.commands.folder.alert import add_alert, alert
from esper.commands.folder.removal import add_archive, add_prune
from esper.commands.folder.runs import add_runs
from esper.commands.grow import add_grow
from esper.commands.health import add_health
from esper.commands.incidents import add_incidents
from esper.commands.options import Parser
from esper.commands.output import EXIT_CODE_FAULT
from esper.commands.ppo.verb import add_ppo, add_train_child, ppo, train_child
from esper.commands.replay import add_replay
from esper.commands.run import add_run_script, run_script
from esper.commands.sanctum import sanctum_parser, serve_parser
from esper.commands.skill import add_skill
from esper.commands.telemetry import add_telemetry
from esper.karn.terminal import shows_signs
from esper.leyline.errors import EsperError
from esper.leyline.text.command_lines import command_line
from esper.leyline.text.plain_text import printable
from esper.leyline.version import VERSION

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `esper`; without arguments it prints its help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _run(esper_parser(with_internal=True), arguments or ["--help"])


def sanctum_main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `sanctum`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if tuple(arguments[:1]) == ("serve",):
        _run(serve_parser(), arguments[1:])
    _run(sanctum_parser(), arguments)


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> NoReturn:
    """Parse the arguments, run the verb and exit.

    An `EsperError` becomes one sentence and exit code 2. So does a report that cannot be printed.
    Any other exception is a bug: it keeps its traceback, and a report ends with exit code 70,
    because 1 is a verdict.
    """
    _repair_environment()
    options = parser.parse_args(arguments)
    _replace_unencodable_signs()
    # A closed pipe ends a report by SIGPIPE, as any other program: an exit code could be taken for
    # the verdict of the report. Training continues.
    is_report = options.verb not in (ppo, run_script, train_child, alert)
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL if is_report else signal.SIG_IGN)
    # Schedulers send SIGUSR1 to all processes of a job; while training, it asks for a checkpoint.
    is_of_run = options.verb in (ppo, train_child, alert, mirror_run)
    before_usr1 = signal.getsignal(signal.SIGUSR1)
    if is_of_run:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        code: int = options.verb(options)
        if is_report:
            sys.stdout.flush()
    except EsperError as error:
        _print_error(f"{parser.prog}: {error}")
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # a bug: shown with its traceback
        if not is_report:
            raise
        if _is_output_error(error):
            _print_error(f"{parser.prog}: the report cannot be printed: {error}")
            code = 2
        else:
            traceback.print_exc()
            code = EXIT_CODE_FAULT
    finally:
        signal.signal(signal.SIGPIPE, before)
        signal.signal(signal.SIGUSR1, before_usr1)
    _flush_output()
    sys.exit(code)


def _print_error(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr)


def _repair_environment() -> None:
    """Replace closed output streams, and remove invalid sizes of the terminal."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed when the program was started
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open until the end)
    for name in ("COLUMNS", "LINES"):
        size = os.environ.get(name, "")
        if size and not (size.isdecimal() and len(size) <= 5 and int(size) > 0):
            del os.environ[name]


def _is_output_error(error: Exception) -> bool:
    """Return whether an error came from writing to standard output: it names no file."""
    is_writing = isinstance(error, OSError) and error.errno in _WRITE_ERRORS
    return is_writing and getattr(error, "filename", None) is None


def _flush_output() -> None:
    """Flush standard output; if it cannot be written, keep the interpreter from failing again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace_unencodable_signs() -> None:
    """Write ASCII instead of signs that the encoding of an output stream lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not shows_signs(stream):
            from esper.karn.sanctum.drawing.ascii import (
                instead_of,  # rarely needed
            )

            codecs.register_error("esper", instead_of)
            stream.reconfigure(errors="esper")


def esper_parser(*, with_internal: bool = False) -> argparse.ArgumentParser:
    """Return the parser of `esper` with all its commands.

    Args:
        with_internal: whether to include the internal command that starts a training process.
    """
    parser = Parser(
        prog="esper",
        description="See which part of a PyTorch training first produced an Inf or a NaN, and at "
        "which operation; or train Esper's own agent, which grows neural networks.",
        epilog=f"To watch a run: {command_line('sanctum')} [RUN]",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"esper {VERSION}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    add_run_script(verbs)
    add_ppo(verbs)
    add_runs(verbs)
    add_health(verbs)
    add_incidents(verbs)
    add_alert(verbs)
    add_replay(verbs)
    add_query(verbs)
    add_export(verbs)
    add_mirror(verbs)
    add_eval(verbs)
    add_grow(verbs)
    add_archive(verbs)
    add_prune(verbs)
    add_telemetry(verbs)
    add_skill(verbs)
    if with_internal:
        add_train_child(verbs)
    return parser

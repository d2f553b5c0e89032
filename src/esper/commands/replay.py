"""`esper replay`: repeat the update of an incident."""

import argparse
import sys
from pathlib import Path
from typing import Any

from esper.commands.options import OptionError, add_run_dir, add_verb, whole_number
from esper.commands.output import EXIT_CODE_FAULT, progress_on_stderr, try_to_write

#: Width of the report in columns if standard output is a file or a pipe.
_PIPED_COLUMNS = 240
#: Seconds after which a replay is stopped, unless --timeout is given.
_SECONDS = 600
_MOST_SECONDS = 7 * 24 * 3600


def add_replay(verbs: Any) -> None:
    """Add `replay` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "replay",
        _replay,
        "repeat the update of an incident and show the first operation that produced NaN or Inf; "
        "exit code 1 if it was not reproduced",
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run: an id, a unique prefix, a name or a path; or the path of one incident's "
        "folder (default: the newest run)",
    )
    parser.add_argument(
        "number",
        nargs="?",
        type=whole_number,
        metavar="N",
        help="number of the incident, see `esper incidents` (default: the first)",
    )
    parser.add_argument(
        "--update",
        type=whole_number,
        metavar="U",
        help="choose the incident of this update instead of N",
    )
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--timeout",
        type=whole_number,
        default=_SECONDS,
        metavar="S",
        help="stop the replay after S seconds (default: %(default)s; at most 600 for recorded "
        "operations)",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write the report as an HTML page"
    )


def _replay(options: argparse.Namespace) -> int:
    if options.number is not None and options.update is not None:
        raise OptionError("N and --update both choose the incident: give one of them")
    if not 1 <= options.timeout <= _MOST_SECONDS:
        raise OptionError(f"--timeout must be from 1 to {_MOST_SECONDS}, not {options.timeout}")
    page: Path | None = options.html
    if page is not None and not page.absolute().parent.is_dir():
        raise OptionError(f"--html {page}: there is no folder {page.parent}")
    from esper.commands.replay_process import Request, replay_in_process
    from esper.karn.text.plain_console import PlainConsole
    from esper.simic.replay.verdict import REPRODUCED

    # In a file or a pipe, lines are not wrapped, so that they can be searched with grep.
    console = PlainConsole(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
    request = Request(
        run_dir=str(options.run_dir),
        run=options.run,
        number=options.number,
        update=options.update,
        as_json=options.json,
        with_page=page is not None,
        width=console.width,
        is_terminal=console.is_terminal,
    )
    answer = replay_in_process(request, progress_on_stderr(), options.timeout)
    if answer is None:
        return EXIT_CODE_FAULT
    error = None if page is None else try_to_write(page, answer.page)
    sys.stdout.write(answer.report)
    if error is not None:
        raise error
    return 0 if answer.verdict == REPRODUCED else 1

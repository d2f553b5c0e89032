"""`esper replay`: repeat the update of an incident."""

import argparse
import sys
from pathlib import Path
from typing import Any

from esper.commands.options import OptionError, add_run_dir, add_verb, whole_number
from esper.commands.output import print_report, progress_on_stderr, try_to_write
from esper.leyline.text.json_text import json_text

#: Width of the report in columns where standard output is a file or a pipe.
_PIPED_COLUMNS = 240


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
        help="number of the incident, as `esper incidents` lists them (default: the first)",
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
        "--html", type=Path, metavar="FILE", help="also write the report as an HTML page"
    )


def _replay(options: argparse.Namespace) -> int:
    if options.number is not None and options.update is not None:
        raise OptionError("N and --update both choose the incident: give one of them")
    page: Path | None = options.html
    if page is not None and not page.absolute().parent.is_dir():
        raise OptionError(f"--html {page}: there is no folder {page.parent}")
    from esper.incident_reports import replay_incident

    replayed = replay_incident(
        options.run_dir,
        options.run,
        options.number,
        update=options.update,
        progress=progress_on_stderr(),
    )
    from esper.karn.text.plain_console import PlainConsole
    from esper.simic.replay import replay_report
    from esper.simic.replay.replay_page import replay_page
    from esper.simic.replay.verdict import REPRODUCED

    replay = replayed.replay
    about = (replayed.run, replayed.number, replayed.minibatches_per_epoch)
    error = None if page is None else try_to_write(page, replay_page(replay, *about))
    if options.json:
        print(json_text(replay_report.replay_as_json(replay, *about)))
    else:
        # Lines are not broken in a file or a pipe, which is often searched with grep.
        console = PlainConsole(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
        print_report(replay_report.replay_text(replay, *about), console)
    if error is not None:
        raise error
    return 0 if replay.verdict == REPRODUCED else 1

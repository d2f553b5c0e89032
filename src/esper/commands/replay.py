"""`esper replay`: make an incident happen again."""

import argparse
from pathlib import Path
from typing import Any

from esper.commands.options import OptionError, add_run_dir, add_verb, whole_number


def add_replay(verbs: Any) -> None:
    """Add `replay` to the verbs of `esper`."""
    parser = add_verb(
        verbs,
        "replay",
        _replay,
        "repeat an incident and show where it began; exit code 1 if it was not reproduced",
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
    from esper import incident_reports

    if options.number is not None and options.update is not None:
        raise OptionError("N and --update both choose the incident: give one of them")
    return incident_reports.replay_incident(
        options.run_dir,
        options.run,
        options.number,
        update=options.update,
        as_json=options.json,
        page=options.html,
    )

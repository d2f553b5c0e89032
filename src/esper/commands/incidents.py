"""`esper incidents`: list the updates of a run that were not finite."""

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from esper.commands.options import add_run, add_run_dir, add_verb
from esper.commands.output import print_warning
from esper.karn.store.run_directory import find_run
from esper.leyline.text.json_text import json_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper.leyline.telemetry import NonfiniteSighting

_MAY_MISS = "incidents without a capsule may be missing from the list"
#: Width of the list in columns.
_WIDTH = 100
#: Columns by which the sightings of an incident are indented.
_INDENT = 6
#: Sightings of an incident that are listed.
_MOST_SEEN = 12
_NO_BREAK = "\N{NO-BREAK SPACE}"


def add_incidents(verbs: Any) -> None:
    """Add `incidents` to the verbs of `esper`."""
    parser = add_verb(
        verbs, "incidents", _incidents, "list the updates of a run in which NaN or Inf was seen"
    )
    add_run(parser)
    add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _incidents(options: argparse.Namespace) -> int:
    run = find_run(options.run_dir, options.run)  # bad input is refused before anything is loaded
    from rich.text import Text

    from esper.karn.text.plain_console import PlainConsole
    from esper.services.incident_reports import incidents_of

    found = incidents_of(run)
    if (doubt := found.completeness.doubt) is not None:
        is_unreadable = found.completeness.unreadable is not None
        effect = "only incidents with a capsule are listed" if is_unreadable else _MAY_MISS
        print_warning(f"{doubt}: {effect}")
    if options.json:
        report = {"run": run.name, "incidents": found.rows, "not_listed": found.not_listed}
        print(json_text(report))
        return 0
    console = PlainConsole()
    if not found.rows:
        finding = "every update was finite" if doubt is None else "none is known"
        console.print(f"No incidents in {run.name}: {finding}.", highlight=False)
        return 0
    console.print(Text(run.name, style="bold"))
    for row, sightings in zip(found.rows, found.sightings, strict=True):
        style = "" if row["kept"] else "dim"
        for line in _lines(row, sightings):
            console.print(Text(line, style=style), soft_wrap=True)
    if found.not_listed:
        console.print(Text(f"{found.not_listed} older, not kept, are not listed", style="dim"))
    return 0


def _lines(row: dict[str, Any], sightings: "Sequence[NonfiniteSighting]") -> list[str]:
    """Return the lines of one incident: its update, then its sightings."""
    from msgspec import convert

    from esper.leyline.telemetry import IncidentOrigin
    from esper.leyline.text.origin_words import no_origin_words, origin_words
    from esper.leyline.text.rank_words import ranks_words
    from esper.leyline.text.sighting_words import sighting_lines

    size = f"{row['size'] / 2**20:.1f} MiB" if row["kept"] else "not kept"
    reason = f": {row['reason']}" if row["reason"] else ""
    is_explained = row["origin"] is not None or row["no_origin"]
    what = f", {size}{reason}" if row["kept"] or not is_explained else ""
    rank = "" if row["rank"] is None else f", rank {row['rank']}"
    if row["also_in"]:
        rank += f" (also seen in {ranks_words(row['also_in'])})"
    lines = _wrapped(f"{row['number']:4}  update {row['update']}{rank}{what}")
    if row["origin"] is not None:
        origin = convert(row["origin"], IncidentOrigin)
        lines += _wrapped(f"{'':{_INDENT}}{origin_words(origin)}")
        lines += _wrapped(f"{'':{_INDENT}}{origin.code}") if origin.code else []
    elif row["no_origin"]:
        lines += _wrapped(f"{'':{_INDENT}}{no_origin_words(row['no_origin'])}")
    seen = sighting_lines(sightings)
    more = len(seen) - _MOST_SEEN
    for words in seen[:_MOST_SEEN] if more > 1 else seen:  # broken only after a comma
        unbroken = words.replace(" ", _NO_BREAK).replace(f",{_NO_BREAK}", ", ")
        lines += _wrapped(f"{'':{_INDENT}}{unbroken}")
    if more > 1:
        lines.append(f"{'':{_INDENT}}and {more} more, which esper incidents --json lists")
    return [line.replace(_NO_BREAK, " ") for line in lines]


def _wrapped(line: str) -> list[str]:
    """Return a line wrapped to the width of the list; long words, such as paths, stay whole."""
    return textwrap.wrap(
        line,
        _WIDTH,
        subsequent_indent=" " * (_INDENT + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )

"""Runs as lines: how each is, how far it came, and which of its lights are on.

A line is built again only where its run, the columns or its marks have changed. With 1,000 runs, of
which one is live, a refresh then takes 5 ms of CPU time. Textual's `DataTable` takes 68 ms for the
same cells if it is updated cell by cell, and 294 ms if it is refilled
(benchmarks/sanctum_tables.py). Neither can a cell of it extend over the next columns, as the
sentence on a damaged store does.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from rich.text import Text

from esper.karn.reports.run_folder.funnel_lines import value_text
from esper.karn.reports.run_folder.run_query import setting_of
from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.text.columns import GAP, in_columns
from esper.karn.text.figures import ABSENT, cut, figure
from esper.karn.text.light_signs import LIT, LIT_BY_DRILL, UNKNOWN, UNLIT
from esper.karn.text.palette import Palette
from esper.karn.text.status_text import status_text

MARK: Final = "✓"
OPEN: Final = "▶"  # before the run that Sanctum shows
_LEAD: Final = 3  # cells for the cursor, the mark and the sign of the open run
_LONGEST_NAME: Final = 32
_LONGEST_NOTE: Final = 40
_LONGEST_LIBRARY: Final = 24
_LONGEST_SETTINGS: Final = 40
#: Settings that are shown, of those that differ among the runs.
_MOST_SETTINGS: Final = 3
#: The columns after the name, from left to right.
_COLUMNS: Final = (
    "status",
    "started",
    "task",
    "updates",
    "episodes",
    "score",
    "lights",
    "best",
    "incidents",
    "library",
    "note",
    "settings",
)
#: Columns that are shown only if some run has a value.
_OPTIONAL: Final[dict[str, Callable[[RunSummary], str]]] = {
    "library": lambda run: run.library,
    "note": lambda run: run.note,
}
#: The same by importance: where they do not all fit, the last ones are left out.
_PRIORITY: Final = (
    "status",
    "score",
    "lights",
    "incidents",
    "updates",
    "note",
    "started",
    "episodes",
    "task",
    "library",
    "best",
    "settings",
)
_ALWAYS_SHOWN: Final = frozenset(_PRIORITY[:3])
#: Columns that decide between long and short cells.
_IMPORTANT: Final = _PRIORITY[:5]
#: Shorter headings, for fewer than `_ROOMY` cells.
_SHORT_HEADINGS: Final = {"incidents": "inc.", "updates": "upd."}
_ROOMY: Final = 110


class _Layout(NamedTuple):
    """What all lines have in common."""

    palette: Palette
    width: int
    name_width: int
    columns: tuple[str, ...]  # those shown
    widths: tuple[int, ...]  # of those shown
    is_short: bool  # whether lights are abbreviated


@dataclass
class _Known:
    """A run with its cells and its last line."""

    run: RunSummary
    cells: dict[bool, dict[str, Text]]  # by whether they are short, then by column
    widths: dict[bool, dict[str, int]]
    key: object = None  # what the line depends on
    line: Text = field(default_factory=Text)


class RunLines:
    """Builds the lines of runs, and keeps those that have not changed."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}  # by the identity of the run's summary
        self._palette: Palette | None = None
        self._settings: tuple[str, ...] = ()  # in the column "settings"

    def show_settings(self, names: Sequence[str]) -> None:
        """Show these settings, as many as there is room for, in a column."""
        if tuple(names[:_MOST_SETTINGS]) != self._settings:
            self._settings = tuple(names[:_MOST_SETTINGS])
            self._known = {}

    def lines(
        self,
        runs: Sequence[RunSummary],
        width: int,
        palette: Palette,
        *,
        marked: Collection[Path] = (),
        watched: Path | None = None,
    ) -> list[Text]:
        """Return a heading and a line for each run.

        Args:
            runs: in the order of their lines.
            width: in cells.
            palette: the colours to choose from.
            marked: paths of the runs marked for comparison.
            watched: path of the run that Sanctum shows.
        """
        layout = self._layout(runs, width, palette)
        widths = (layout.name_width, *layout.widths)
        names = ["run", *(_heading(name, width) for name in layout.columns)]
        heading = Text(" " * _LEAD, style=palette.muted, no_wrap=True)
        heading.append_text(in_columns(names, widths)).truncate(width, overflow="ellipsis")
        is_marked = set(marked)
        watched = None if watched is None else watched.absolute()
        lines = [heading]
        for run in runs:
            known = self._known[id(run)]
            is_watched = watched is not None and watched == run.path.absolute()
            key = layout, run.path in is_marked, is_watched
            if known.key != key:
                known.key, known.line = key, _line(known, *key)
            lines.append(known.line)
        return lines

    def hidden_columns(self, runs: Sequence[RunSummary], width: int, palette: Palette) -> list[str]:
        """Return the columns for which there is no room in `width` cells."""
        shown = self._layout(runs, width, palette).columns
        return [name for name in self._used_columns(runs) if name not in shown]

    def _used_columns(self, runs: Sequence[RunSummary]) -> list[str]:
        """Return the columns in which some run has, or may have, a value."""
        return [
            name
            for name in _COLUMNS
            if (name != "settings" or self._settings)
            and (name not in _OPTIONAL or any(_OPTIONAL[name](run) for run in runs))
        ]

    def _layout(self, runs: Sequence[RunSummary], width: int, palette: Palette) -> _Layout:
        before = self._known if palette == self._palette else {}
        self._palette = palette
        self._known = {id(run): before.get(id(run)) or _Known(run, {}, {}) for run in runs}
        name_width = min(_LONGEST_NAME, max([len("run"), *(len(run.run_id) for run in runs)]))
        room = width - _LEAD - name_width
        columns = self._used_columns(runs)
        for is_short in (False, True):
            widths = self._widths(columns, width, palette, is_short=is_short)
            if sum(GAP + widths[name] for name in _IMPORTANT) <= room:
                break
        shown = set()
        for name in _PRIORITY:
            if name in columns and (GAP + widths[name] <= room or name in _ALWAYS_SHOWN):
                shown.add(name)
                room -= GAP + widths[name]
        names = tuple(name for name in columns if name in shown)
        cells = tuple(widths[name] for name in names)
        return _Layout(palette, width, name_width, names, cells, is_short)

    def _widths(
        self, columns: Sequence[str], width: int, palette: Palette, *, is_short: bool
    ) -> dict[str, int]:
        found = []
        for known in self._known.values():
            if is_short not in known.cells:
                cells = {
                    name: _cell(name, known.run, palette, self._settings, is_short=is_short)
                    for name in _COLUMNS
                }
                known.cells[is_short] = cells
                known.widths[is_short] = {name: cell.cell_len for name, cell in cells.items()}
            found.append(known.widths[is_short])
        return {
            name: max([len(_heading(name, width)), *(widths[name] for widths in found)])
            for name in columns
        }


def lights_text(run: RunSummary, palette: Palette, *, is_short: bool = False) -> Text:
    """Return which lights are on in a run; the sign of a dark light if none is.

    Args:
        run: the run.
        palette: the colours to choose from.
        is_short: whether to give the number of heads instead of their names.
    """
    alert = f"bold {palette.critical}"
    text = Text(no_wrap=True)
    for word, names in run.lights().items():
        if names:
            text.append(" " * GAP if text.cell_len else "")
            is_planted = all((word, name) in run.planted for name in names)
            marked = names if is_planted else [run.marked(word, name) for name in names]
            shown = f"in {len(names)}" if is_short and len(names) > 1 else ", ".join(marked)
            sign = LIT_BY_DRILL if is_planted else LIT
            text.append(f"{sign} {word} {shown}", alert)
    if run.is_stalled:
        text.append(" " * GAP if text.cell_len else "").append(f"{LIT} stalled", alert)
    if run.doubt.lights is not None:
        text.append(" " * GAP if text.cell_len else "")
        text.append(UNKNOWN, f"bold {palette.warning}")
    return text if text.cell_len else Text(UNLIT, style=f"dim {palette.muted}")


def _line(known: _Known, layout: _Layout, is_marked: bool, is_watched: bool) -> Text:
    run, palette = known.run, layout.palette
    name = Text(run.run_id, style=f"bold {palette.accent}" if is_watched else palette.ink)
    name.truncate(layout.name_width, overflow="ellipsis")
    cells = [name, *(known.cells[layout.is_short][column] for column in layout.columns)]
    if run.doubt.error is not None:
        # The line begins with the run's name, so the path of its folder is left out.
        error = f"! {run.doubt.error.replace(f'{run.path}/', '')}"
        cells[1 + layout.columns.index("lights") :] = [Text(error, palette.warning)]
    widths = (layout.name_width, *layout.widths)[: len(cells)]
    line = Text(" ", no_wrap=True)  # for the cursor
    line.append(MARK if is_marked else " ", f"bold {palette.accent}")
    line.append(OPEN if is_watched else " ", f"bold {palette.accent}")
    line.append_text(in_columns(cells, widths)).truncate(layout.width, overflow="ellipsis")
    return line


def _heading(column: str, width: int) -> str:
    return column if width >= _ROOMY else _SHORT_HEADINGS.get(column, column)


def _cell(
    title: str, run: RunSummary, palette: Palette, settings: Sequence[str], *, is_short: bool
) -> Text:
    if title == "status":
        return status_text(run.status, palette)
    if title == "lights":
        return lights_text(run, palette, is_short=is_short)
    started = None if run.started_at is None else datetime.fromtimestamp(run.started_at)
    figures = {"score": run.score, "best": run.best_score}
    value = figures.get(title)
    if value is not None and not math.isfinite(value):
        return Text(figure(value), style=f"bold {palette.critical}")
    words = {
        "started": ABSENT if started is None else started.strftime("%m-%d %H:%M"),
        "task": cut(run.task or ABSENT, 10),
        "updates": str(run.update),
        "episodes": f"{run.episodes_done}/{run.episodes}" if run.episodes else ABSENT,
        **{name: figure(known) for name, known in figures.items()},
        "incidents": str(run.incidents or ABSENT),
        "library": cut(run.library or ABSENT, _LONGEST_LIBRARY),
        "note": cut(run.note, _LONGEST_NOTE),
        "settings": cut(_settings_text(run, settings), _LONGEST_SETTINGS),
    }
    return Text(words[title], style=palette.ink)


def _settings_text(run: RunSummary, names: Sequence[str]) -> str:
    """Return settings of a run with their values; those that it does not have are left out."""
    found = ((name, setting_of(run, name)) for name in names)
    return ", ".join(f"{name} {value_text(value)}" for name, value in found if value is not None)

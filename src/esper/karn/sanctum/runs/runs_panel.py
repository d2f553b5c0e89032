"""The list of all runs: how each of them is, how far it came, and which lights are on in it."""

import math
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message

from esper.karn.reports.run_catalogue import RunSummary
from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.fold.view import View
from esper.karn.text.columns import GAP, in_columns
from esper.karn.text.figures import ABSENT, cut, figure
from esper.karn.text.light_signs import LIT, LIT_BY_DRILL, UNKNOWN, UNLIT
from esper.karn.text.palette import Palette
from esper.karn.text.status_text import status_text
from esper.leyline.plurals import plural

MARK: Final = "✓"
OPEN: Final = "▶"  # before the run that Sanctum is opened over
NO_RUNS: Final = "no runs yet"
_NONE_FOUND: Final = "no run has that"
_LEAD: Final = 3  # the cursor, the mark, and which is open
_LONGEST_NAME: Final = 32
_LONGEST_NOTE: Final = 40
#: Runs that can be compared: as many as there are letters.
MOST_MARKED: Final = 26
#: The columns behind the name, in the order in which they stand.
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
    "note",
)
#: The same, what matters most first: where they do not all fit, the last are left out.
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
    "best",
)
#: Shorter headings, for less than `_ROOMY` cells.
_SHORT_HEADINGS: Final = {"incidents": "inc.", "updates": "upd."}
_ROOMY: Final = 110

#: By the name of an order: what runs are sorted by, and whether the largest is first.
_ORDERS: Final[dict[str, tuple[Callable[[RunSummary], Any], bool]]] = {
    "newest": (lambda run: run.path.name, True),
    "score": (lambda run: _or_lowest(run.score), True),
    "best": (lambda run: _or_lowest(run.best_score), True),
    "incidents": (lambda run: run.incidents, True),
    "status": (lambda run: str(run.status.kind), False),
    "name": (lambda run: (run.name or run.run_id).lower(), False),
}


def _or_lowest(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else -math.inf


def lights_text(run: RunSummary, palette: Palette, *, is_short: bool = False) -> Text:
    """Return which lights are on in a run, in words; a dark one if none is, as far as is known.

    Where it has to be short, of several heads their number is given.
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
    if not run.is_whole:
        text.append(" " * GAP if text.cell_len else "")
        text.append(UNKNOWN, f"bold {palette.warning}")
    return text if text.cell_len else Text(UNLIT, style=f"dim {palette.muted}")


def render_runs(
    runs: Sequence[RunSummary],
    width: int,
    palette: Palette,
    *,
    marked: Sequence[Path] = (),
    watched: Path | None = None,
) -> list[Text]:
    """Return a heading and a line for each run.

    Args:
        runs: in the order of their lines.
        width: in cells.
        palette: the colours to choose from.
        marked: those to be compared.
        watched: the run that Sanctum is opened over.
    """
    name_width = min(_LONGEST_NAME, max([len("run"), *(len(run.run_id) for run in runs)]))
    cells, widths, shown = _layout(runs, width - _LEAD - name_width, width >= _ROOMY, palette)
    all_widths = [name_width, *(widths[column] for column in shown)]
    names = ["run", *(_heading(column, width >= _ROOMY) for column in shown)]
    heading = Text(" " * _LEAD, style=palette.muted, no_wrap=True)
    lines = [heading.append_text(in_columns(names, all_widths))]
    for run, row in zip(runs, cells, strict=True):
        is_watched = watched is not None and run.path.absolute() == watched.absolute()
        name = Text(run.run_id, style=f"bold {palette.accent}" if is_watched else palette.ink)
        name.truncate(name_width, overflow="ellipsis")
        shown_cells = [row[column] for column in shown]
        if run.error is not None:
            # The line begins with the run's name, so the path of its folder is left out.
            error = f"! {run.error.replace(f'{run.path}/', '')}"
            shown_cells[shown.index("lights") :] = [Text(error, palette.warning)]
        line = Text(" ", no_wrap=True)  # for the cursor
        line.append(MARK if run.path in marked else " ", f"bold {palette.accent}")
        line.append(OPEN if is_watched else " ", f"bold {palette.accent}")
        line.append_text(in_columns([name, *shown_cells], all_widths[: 1 + len(shown_cells)]))
        lines.append(line)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def hidden_columns(runs: Sequence[RunSummary], width: int, palette: Palette) -> list[str]:
    """Return the columns for which there is no room in `width` cells."""
    name_width = min(_LONGEST_NAME, max([len("run"), *(len(run.run_id) for run in runs)]))
    _, _, shown = _layout(runs, width - _LEAD - name_width, width >= _ROOMY, palette)
    has_note = any(run.note for run in runs)
    return [name for name in _COLUMNS if name not in shown and (name != "note" or has_note)]


def _heading(column: str, is_roomy: bool) -> str:
    return column if is_roomy else _SHORT_HEADINGS.get(column, column)


def _layout(
    runs: Sequence[RunSummary], room: int, is_roomy: bool, palette: Palette
) -> tuple[list[dict[str, Text]], dict[str, int], list[str]]:
    """Return the cells of each run, the width of each column, and the columns that are shown."""
    columns = [name for name in _COLUMNS if name != "note" or any(run.note for run in runs)]

    def made(is_short: bool) -> list[dict[str, Text]]:
        return [
            {name: _cell(name, run, palette, is_short=is_short) for name in columns} for run in runs
        ]

    cells = made(is_short=False)
    for is_short in (False, True):
        cells = made(is_short)
        widths = {
            name: max([len(_heading(name, is_roomy)), *(row[name].cell_len for row in cells)])
            for name in columns
        }
        needed = sum(GAP + widths[name] for name in _PRIORITY[:5])
        if needed <= room:
            break
    left = room
    shown = set()
    for name in _PRIORITY:
        if name in columns and (GAP + widths[name] <= left or name in _PRIORITY[:3]):
            shown.add(name)
            left -= GAP + widths[name]
    return cells, widths, [name for name in columns if name in shown]


def _cell(title: str, run: RunSummary, palette: Palette, *, is_short: bool) -> Text:
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
        "note": cut(run.note, _LONGEST_NOTE),
    }
    return Text(words[title], style=palette.ink)


class RunsPanel(ChoicePanel):
    """Shows all runs; one of them can be opened, and several be compared."""

    SHOWS: ClassVar[tuple[str, ...]] = (
        "run.phase",
        "run.started_at",
        "run.task",
        "run.update",
        "run.episodes_done",
        "training.score",
        "tamiyo.head_inf_latch",
        "tamiyo.head_nan_latch",
        "tamiyo.group_inf_latch",
        "tamiyo.group_nan_latch",
        "interventions.incidents",
    )
    BORDER_TITLE = "Runs"
    ABOUT = "every training run in this folder"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", tooltip="Watch the chosen run"),
        Binding("space", "mark", "Mark", tooltip="Mark the chosen run to be compared, or not"),
        Binding("o", "order", "Sort", tooltip="Sort by another column: newest, score, best, …"),
    ]

    class Opened(Message):
        """A run was chosen to be watched."""

        def __init__(self, path: Path) -> None:
            super().__init__()
            self.path = path

    class Changed(Message):
        """What is listed, or how, has changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._all: Sequence[RunSummary] = ()  # oldest first
        self._runs: Sequence[RunSummary] = ()  # in the order of the lines
        self._nothing = NO_RUNS
        self.filter_text = ""
        self.order = "newest"
        self.marked: list[Path] = []  # in the order in which they were marked

    @property
    def chosen_run(self) -> RunSummary | None:
        """The run of the chosen line."""
        return next((run for run in self._runs if run.path == self.chosen), None)

    def list_runs(self, runs: Sequence[RunSummary], nothing: str = NO_RUNS) -> None:
        """Show other runs; `runs` are given oldest first.

        Where there are none, it says `nothing`.
        """
        if (tuple(runs), nothing) == (self._all, self._nothing):
            return
        self._all, self._nothing = tuple(runs), nothing
        self.marked = [path for path in self.marked if any(run.path == path for run in runs)]
        self._arrange()

    def filter(self, text: str) -> None:
        """Show the runs that have every word of a text in their name, task, status or note."""
        if text != self.filter_text:
            self.filter_text = text
            self._arrange()

    def _arrange(self) -> None:
        words = self.filter_text.lower().split()
        found = [run for run in self._all if all(word in _searched(run) for word in words)]
        key, is_descending = _ORDERS[self.order]
        found.sort(key=lambda run: run.path.name, reverse=True)  # of what is equal, the newest
        self._runs = tuple(sorted(found, key=key, reverse=is_descending))
        self._keys = [run.path for run in self._runs]
        self.redraw()
        self.post_message(self.Changed())

    def summary(self, width: int, palette: Palette) -> str:
        """Return how the list is sorted and filtered, and what of it is not shown."""
        shown = (
            f"{len(self._runs)} of {len(self._all)}" if self.filter_text else str(len(self._all))
        )
        parts = [f"{shown} {plural(len(self._all), 'run')}", f"sorted by {self.order}"]
        if self.filter_text:
            parts.append(f"with {self.filter_text!r}")
        if self.marked:
            parts.append(f"{len(self.marked)} marked")
        if hidden := hidden_columns(self._runs, width, palette):
            parts.append(f"no room for {', '.join(hidden)}")
        return " · ".join(parts)

    def part(self, view: View) -> object:
        return view.directory

    def keys(self, view: View) -> Sequence[Hashable]:  # noqa: ARG002
        return [run.path for run in self._runs]

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        if not self._runs:
            nothing = _NONE_FOUND if self._all else self._nothing
            return [Text(nothing, style=palette.muted)]
        return render_runs(self._runs, width, palette, marked=self.marked, watched=view.directory)

    def to_compare(self) -> list[RunSummary]:
        """Return the marked runs; of fewer than two, with the chosen one."""
        chosen = [self.chosen] if len(self.marked) < 2 else []
        paths = list(dict.fromkeys([*self.marked, *chosen]))
        return [run for path in paths for run in self._all if run.path == path]

    def open_chosen(self) -> None:
        """Watch the run that was clicked twice."""
        self.action_open()

    def action_open(self) -> None:
        """Watch the chosen run."""
        if isinstance(self.chosen, Path):
            self.post_message(self.Opened(self.chosen))

    def action_mark(self) -> None:
        """Mark the chosen run, or take its mark away."""
        path = self.chosen
        if not isinstance(path, Path):
            return
        if path in self.marked:
            self.marked.remove(path)
        elif len(self.marked) < MOST_MARKED:
            self.marked.append(path)
        self.redraw()
        self.post_message(self.Changed())

    def action_order(self) -> None:
        """Sort by the next of the orders."""
        names = list(_ORDERS)
        self.order = names[(names.index(self.order) + 1) % len(names)]
        self._arrange()


def _searched(run: RunSummary) -> str:
    lit = [f"{word} {name}" for word, names in run.lights().items() for name in names]
    parts = (run.run_id, run.name, run.task, str(run.status.kind), run.note, *lit)
    return " ".join(parts).lower()

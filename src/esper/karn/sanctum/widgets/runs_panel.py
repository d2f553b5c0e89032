"""The list of all runs: how each of them is, how far it came, and which lights are on in it."""

import math
from collections.abc import Hashable, Sequence
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Final

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message

from esper.karn.run_catalogue import RunSummary
from esper.karn.sanctum.view import View
from esper.karn.sanctum.widgets.choice_panel import ChoicePanel
from esper.karn.sanctum.widgets.figures import ABSENT, figure
from esper.karn.sanctum.widgets.palette import Palette
from esper.karn.sanctum.widgets.run_header import status_text
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import LIT, UNKNOWN, UNLIT

MARK: Final = "✓"
OPEN: Final = "▶"  # before the run that Sanctum is opened over
NO_RUNS: Final = "no runs yet"
_GAP: Final = "  "
_LONGEST_NAME: Final = 32
#: Heading, width, and at how many cells of the whole the column is there.
_COLUMNS: Final = (
    ("status", 11, 0),
    ("started", 11, 96),
    ("task", 10, 120),
    ("updates", 7, 0),
    ("episodes", 11, 110),
    ("score", 6, 0),
)
#: Behind the lights, where they leave room.
_COLUMNS_BEHIND: Final = (("best", 6), ("incidents", 9))


def lights_text(run: RunSummary, palette: Palette, *, is_short: bool = False) -> Text:
    """Return which lights are on in a run, in words; a dark one if none is, as far as is known.

    Where it has to be short, of several heads their number is told.
    """
    alert = f"bold {palette.critical}"
    text = Text(no_wrap=True)
    for word, names in run.lights().items():
        if names:
            text.append(_GAP if text.cell_len else "")
            said = f"in {len(names)}" if is_short and len(names) > 1 else ", ".join(names)
            text.append(f"{LIT} {word} {said}", alert)
    if not run.is_whole:
        text.append(_GAP if text.cell_len else "")
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
    """Return a heading and a line for each run, the newest first.

    Args:
        runs: in the order of their lines.
        width: in cells.
        palette: the colours to choose from.
        marked: those to be compared.
        watched: the run that Sanctum is opened over.
    """
    names = [run.run_id for run in runs]
    name_width = min(_LONGEST_NAME, max([len("run"), *map(len, names)]))
    columns = [column for column in _COLUMNS if width >= column[2]]
    heading = Text("   " + "run".ljust(name_width), style=palette.muted, no_wrap=True)
    for title, size, _ in columns:
        heading.append(_GAP + title.ljust(size))
    lights = [lights_text(run, palette) for run in runs]
    room = width - heading.cell_len - len(_GAP)
    lights = [
        lit if lit.cell_len <= room else lights_text(run, palette, is_short=True)
        for run, lit in zip(runs, lights, strict=True)
    ]
    lights_width = max([len("lights"), *(text.cell_len for text in lights)])
    heading.append(_GAP + "lights".ljust(lights_width))
    behind = []
    room = width - heading.cell_len
    for title, size in _COLUMNS_BEHIND:
        room -= len(_GAP) + size
        if room >= 0:
            behind.append((title, size))
            heading.append(_GAP + title.ljust(size))
    lines = [heading]
    for run, lit in zip(runs, lights, strict=True):
        line = Text(" ", no_wrap=True)  # the cursor's
        is_watched = watched is not None and run.path.absolute() == watched.absolute()
        line.append(MARK if run.path in marked else " ", f"bold {palette.accent}")
        line.append(OPEN if is_watched else " ", f"bold {palette.accent}")
        style = f"bold {palette.accent}" if is_watched else palette.ink
        name = Text(run.run_id, style=style)
        name.truncate(name_width, overflow="ellipsis", pad=True)
        line.append_text(name)
        line.append_text(_cells(run, [column[:2] for column in columns], palette))
        line.append(_GAP)
        if run.error is not None:
            # The folder is the run's own, and has its name already; what is wrong has to be seen.
            reason = run.error.replace(f"{run.path}/", "")
            line.append(f"! {reason}", palette.warning)
        else:
            lit.truncate(lights_width, pad=True)
            line.append_text(lit).append_text(_cells(run, behind, palette))
        lines.append(line)
    for line in lines:
        line.rstrip()  # what is only padding is not cut off with a sign
        line.truncate(width, overflow="ellipsis")
    return lines


def _cells(run: RunSummary, columns: Sequence[tuple[str, int]], palette: Palette) -> Text:
    cells = Text()
    for title, size in columns:
        cell = _cell(title, run, palette)
        cell.truncate(size, overflow="ellipsis", pad=True)
        cells.append(_GAP).append_text(cell)
    return cells


def _cell(title: str, run: RunSummary, palette: Palette) -> Text:
    if title == "status":
        return status_text(run.status, palette)
    started = None if run.started_at is None else datetime.fromtimestamp(run.started_at)
    figures = {"score": run.score, "best": run.best_score}
    value = figures.get(title)
    if value is not None and not math.isfinite(value):
        return Text(figure(value), style=f"bold {palette.critical}")
    words = {
        "started": ABSENT if started is None else started.strftime("%m-%d %H:%M"),
        "task": run.task or ABSENT,
        "updates": str(run.update),
        "episodes": f"{run.episodes_done}/{run.episodes}" if run.episodes else ABSENT,
        **{name: figure(known) for name, known in figures.items()},
        "incidents": str(run.incidents or ABSENT),
    }
    return Text(words[title], style=palette.ink)


class RunsPanel(ChoicePanel):
    """Shows all runs; one of them can be opened, and two be compared."""

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
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", tooltip="Watch the chosen run"),
        Binding("space", "mark", "Mark", tooltip="Mark the chosen run to be compared, or not"),
    ]

    class Opened(Message):
        """A run was chosen to be watched."""

        def __init__(self, path: Path) -> None:
            super().__init__()
            self.path = path

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._runs: Sequence[RunSummary] = ()
        self._nothing = NO_RUNS
        self.marked: list[Path] = []  # two at the most, in the order in which they were marked

    def list_runs(self, runs: Sequence[RunSummary], nothing: str = NO_RUNS) -> None:
        """Show other runs, the newest first; `runs` are given oldest first.

        Where there are none, it says `nothing`.
        """
        newest_first = tuple(reversed(runs))
        if (newest_first, nothing) == (self._runs, self._nothing):
            return
        self._runs, self._nothing = newest_first, nothing
        self.marked = [path for path in self.marked if any(run.path == path for run in runs)]
        self._keys = [run.path for run in newest_first]
        self.redraw()

    def part(self, view: View) -> object:
        return view.directory

    def keys(self, view: View) -> Sequence[Hashable]:  # noqa: ARG002
        return [run.path for run in self._runs]

    def rows(self, view: View, width: int, palette: Palette) -> list[Text]:
        if not self._runs:
            return [Text(self._nothing, style=palette.muted)]
        return render_runs(self._runs, width, palette, marked=self.marked, watched=view.directory)

    def to_compare(self) -> list[RunSummary]:
        """Return the two marked runs; or the marked one and the chosen one, as far as they are."""
        paths = list(dict.fromkeys([*self.marked, self.chosen]))[:2]
        return [run for path in paths for run in self._runs if run.path == path]

    def open_chosen(self) -> None:
        """Watch the run that was clicked twice."""
        self.action_open()

    def action_open(self) -> None:
        """Watch the chosen run."""
        if isinstance(self.chosen, Path):
            self.post_message(self.Opened(self.chosen))

    def action_mark(self) -> None:
        """Mark the chosen run, or take its mark away; of three, the first loses it."""
        path = self.chosen
        if not isinstance(path, Path):
            return
        if path in self.marked:
            self.marked.remove(path)
        else:
            self.marked = [*self.marked, path][-2:]
        self.redraw()

"""The base of every screen: the run's state at the top, panels, time bar and keys."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.geometry import Size
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Static

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.attention import Lamps, Light, lights_on, next_light, unacknowledged
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.key_line import ACKNOWLEDGE, END, NOW, KeyLine
from esper.karn.sanctum.frame.small_panel import SmallPanel
from esper.karn.sanctum.frame.status_strip import StatusStrip
from esper.karn.sanctum.frame.time_bar import TimeBar, updates_of
from esper.leyline.text.plain_text import printable

if TYPE_CHECKING:
    from esper.karn.reports.run_folder.run_summary import RunSummary

#: Columns and lines a screen needs; a smaller terminal shows the run in a few lines.
SMALLEST: tuple[int, int] = (72, 23)


def _offered(view: View) -> tuple[bool, bool]:
    """Return what decides which actions are offered."""
    return view.status.is_over, view.snapshot.run.is_watched


def too_small(size: Size) -> bool:
    """Return whether a terminal is too small for a whole screen."""
    return size.width < SMALLEST[0] or size.height < SMALLEST[1]


class ViewUpdated(Message):
    """A new view of the run; sent to the screen that shows it."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view


class RunsUpdated(Message):
    """The runs of the folder; sent to the screen that shows them."""

    def __init__(
        self, runs: "Sequence[RunSummary]", *, is_behind: bool = False, error: str | None = None
    ) -> None:
        super().__init__()
        self.runs = runs  # oldest first
        self.is_behind = is_behind  # not all runs have been read yet
        self.error = error  # one sentence, where the folder could not be read


class RunScreen(Screen[None]):
    """Shows the views of a run.

    Subclasses yield their widgets in `panels`; every `Panel` among them is given every view.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", show=False, tooltip="Focus the next or previous panel"),
        Binding(
            "shift+tab",
            "app.focus_previous",
            show=False,
            tooltip="Focus the next or previous panel",
        ),
    ]

    #: Whether it also receives the runs of the folder.
    WANTS_RUNS: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.view: View | None = None  # the one being shown
        self._speed = 1
        self._lamps = Lamps()
        self._explains = False

    @property
    def is_small(self) -> bool:
        """Whether the terminal is too small, so that a few lines are shown instead."""
        return too_small(self.size)

    @property
    def is_complete(self) -> bool:
        """Whether everything that existed when it was opened has been read and shown."""
        return self.view is not None and not self.view.is_behind

    def top(self) -> Iterable[Widget]:
        """Return the widgets at the top that show the state of the run."""
        return [StatusStrip(id="strip")]

    def panels(self) -> ComposeResult:
        """Yield the widgets of this screen, in the order in which the tab key visits them."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Yield the frame of the screen and its panels."""
        yield SmallPanel(id="small")
        with Container(id="body"):
            yield from self.top()
            yield Static(id="error", markup=False)
            yield from self.panels()
            yield TimeBar(self._speed, id="time")
        yield KeyLine()

    def on_view_updated(self, message: ViewUpdated) -> None:
        """Show a view."""
        with self.app.batch_update():
            self.show(message.view)

    def show(self, view: View) -> None:
        """Show a view; called inside a batch update."""
        before, self.view = self.view, view
        if before is None or view.doubt != before.doubt:
            error, sentence = self.query_one("#error", Static), view.doubt.sentence
            error.update(printable(f"! {sentence}"))
            error.set_class(sentence is not None, "-shown")
        self.set_class(bool(view.snapshot.tamiyo.evidence), "-evidence")
        self.set_class(updates_of(view) > 0, "-timed")
        self.set_class(view.is_of_script, "-watched")
        urgent = ACKNOWLEDGE if unacknowledged(view) else NOW if view.position else ()
        self.query_one(KeyLine).set_urgent(urgent + END if view.status.is_over else urgent)
        if before is None or _offered(before) != _offered(view):
            self.refresh_bindings()
        shown = self.as_shown(view)
        for panel in self.walk_children(Panel):
            panel.lamps = self._lamps  # also for panels that were added later
            panel.explain(self._explains)
            panel.show(shown)

    def as_shown(self, view: View) -> View:
        """Return the view given to panels; screens override it to show another part of the run."""
        return view

    def set_speed(self, speed: int) -> None:
        """Set the playing speed in updates per second."""
        self._speed = speed
        for bar in self.query(TimeBar):
            bar.speed = speed
            bar.redraw()

    def show_lamps(self, lamps: Lamps) -> None:
        """Show the lights in a phase of blinking, or in a lamp test."""
        self._lamps = lamps
        with self.app.batch_update():
            for panel in self.query(Panel):
                panel.show_lamps(lamps)

    def chosen_light(self) -> Light | None:
        """Return the light to acknowledge; None if the chosen row has no light.

        On screens without rows of lights, it is the first that is not acknowledged.
        """
        if self.view is None:
            return None
        lit = lights_on(self.view.snapshot)
        return next_light(self.view) or next(iter(lit), None)

    def redraw(self) -> None:
        """Draw every panel again, in the current colours."""
        for panel in self.query(Panel):
            panel.redraw()

    def explain(self, explains: bool) -> None:
        """Show or hide the `ABOUT` text next to each panel's title."""
        self._explains = explains
        for panel in self.query(Panel):
            panel.explain(explains)

    def wake(self) -> None:
        """Make every panel draw the next view without delay, as the last one may be old."""
        for panel in self.query(Panel):
            panel.wake()

    def on_resize(self, _event: Resize) -> None:
        """Switch between the screen and the few lines for small terminals."""
        self.set_class(self.is_small, "-small")

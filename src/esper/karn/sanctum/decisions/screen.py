"""The Decisions screen: the decisions of one step for all hosts, and one in detail."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.worker import get_current_worker

from esper.karn.sanctum.decisions.decision_panels import DecisionListPanel, DecisionPanel
from esper.karn.sanctum.drawing.choice_panel import ChoicePanel
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.following.decision_steps import (
    Step,
    last_act,
    moved,
    steps_of_update,
    waits,
)
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.store.errors import RunStoreError
from esper.karn.store.reading.run_reader import RunReader

_STEP: Final = "Back or forward by one step of the update"
_ENDS: Final = "First or newest step of the update"
#: More than an update has steps.
_ALL: Final = 1_000_000


class DecisionsScreen(RunScreen):
    """Shows the decisions of a step for every host, and that of the chosen host in detail.

    It shows the newest step until the user steps back. The steps of the update are then read from
    the store, and the chosen step stays until the user returns to the newest one or to another
    moment. If the run has ended or a past moment is shown, and the newest step has no action, as in
    the last steps of an episode, it shows the last step with one.
    """

    CSS_PATH = str(Path(__file__).with_suffix(".tcss"))
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "Step", tooltip=_STEP),
        Binding("right", "step(1)", show=False, tooltip=_STEP),
        Binding("shift+left", f"step({-_ALL})", show=False, tooltip=_ENDS),
        Binding("shift+right", f"step({_ALL})", show=False, tooltip=_ENDS),
        Binding("n", "now", "Now", tooltip="Back to now"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._held: Step | None = None  # instead of the newest
        self._steps: tuple[Step, ...] = ()  # the steps of the update read so far
        self._moment: object = None  # the run and update at which they were read
        self._waiting = 0  # steps to move by once they are read
        self._has_looked = False  # whether the last step with an action was looked for

    def panels(self) -> ComposeResult:
        """Yield the list of hosts, and the decision for the chosen one."""
        with Container(id="decisions-pair"):
            yield DecisionListPanel(id="decisions")
            yield DecisionPanel(id="decision")

    def show(self, view: View) -> None:
        """Show a view, with the decision for the chosen host."""
        if _moment_of(view) != self._moment:
            self._moment = _moment_of(view)
            self._held, self._steps, self._waiting = None, (), 0
            self._has_looked = False
        super().show(view)
        self._follow()
        self._look_for_act(view)

    def as_shown(self, view: View) -> View:
        """Return the view with the held step instead of the newest."""
        if self._held is None:
            return view
        return replace(view, snapshot=replace(view.snapshot, decisions=self._held))

    def on_choice_panel_chosen(self, message: ChoicePanel.Chosen) -> None:
        """Show another host's decision."""
        message.stop()
        self._follow()

    def action_step(self, by: int) -> None:
        """Move by a number of steps of the update; after the last comes the newest."""
        if self.view is None:
            return
        newest = self.view.snapshot.decisions
        shown = self._held or newest
        if not shown or (self._held is None and by > 0):
            return
        update, step = shown[0].update, shown[0].step
        last_read = max(
            (taken[0].step for taken in self._steps if taken[0].update == update), default=0
        )
        last = newest[0].step if newest and newest[0].update == update else last_read
        if step > last_read or (by > 0 and step == last_read < last):
            # Not read yet: at first, and for steps taken since.
            if self.view.directory is not None:
                self._waiting += by
                self._read(self.view, self.view.directory, shown)
            return
        self._hold(moved(self._steps, step, by))

    async def action_now(self) -> None:
        """Show the newest step, and the current state of the run."""
        self._hold(None)
        await self.run_action("app.now")

    @work(thread=True, exclusive=True, group="steps")
    def _read(self, view: View, directory: Path, shown: Step) -> None:
        snapshot = view.snapshot
        try:
            steps = steps_of_update(
                RunReader(directory), shown[0].update, snapshot.last_event_id, snapshot.run.heads
            )
        except RunStoreError as error:
            message = str(error)
            self.app.call_from_thread(self.notify, message, severity="error", markup=False)
            steps = ()
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._have_read, _moment_of(view), shown, steps)

    def _have_read(self, moment: object, shown: Step, steps: tuple[Step, ...]) -> None:
        by, self._waiting = self._waiting, 0
        if moment != self._moment or not steps or not by:
            return
        self._steps = steps
        self._hold(moved(steps, shown[0].step, by))

    def _look_for_act(self, view: View) -> None:
        """Look for the last step with an action, once for each moment at rest."""
        newest, heads = view.snapshot.decisions, view.snapshot.run.heads
        is_at_rest = view.status.is_over if view.position is None else not view.position.speed
        if self._has_looked or not is_at_rest or not newest or view.directory is None:
            return
        self._has_looked = True
        if self._held is None and waits(newest, heads):
            self._read_act(view, view.directory)

    @work(thread=True, exclusive=True, group="steps")
    def _read_act(self, view: View, directory: Path) -> None:
        snapshot = view.snapshot
        try:
            found = last_act(RunReader(directory), snapshot.last_event_id, snapshot.run.heads)
        except RunStoreError:
            return  # the screen shows the error
        if found is not None and not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._have_act, _moment_of(view), *found)

    def _have_act(self, moment: object, step: Step, steps: tuple[Step, ...]) -> None:
        if moment == self._moment and self._held is None:
            self._steps = steps
            self._hold(step, is_last_act=True)
            heads = {} if self.view is None else self.view.snapshot.run.heads
            acted = (one.host for one in step if not waits((one,), heads))
            self.query_one(DecisionListPanel).choose(next(acted, None))

    def _hold(self, step: Step | None, *, is_last_act: bool = False) -> None:
        self._held = step
        self.query_one(DecisionListPanel).hold(step is not None, is_last_act=is_last_act)
        if self.view is not None:
            with self.app.batch_update():
                self.show(self.view)
                for panel in self.query(Panel):
                    panel.redraw()  # at once, after a key press

    def _follow(self) -> None:
        decisions = self.query_one(DecisionListPanel)
        if self.view is not None:
            # Rows and border; if the heads are below, they take the rest of the height.
            decisions.styles.max_height = max(1, len(decisions.keys(self.view))) + 1
        self.query_one(DecisionPanel).choose(decisions.chosen)


def _moment_of(view: View) -> object:
    """Return the run and the update shown; a held step is released when they change."""
    return view.directory, None if view.position is None else view.position.update

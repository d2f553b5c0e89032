"""The incident of the chosen row, and its replay."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

from rich.text import Text
from textual.timer import Timer

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.heads.incident_view import ReplayState, render_incident
from esper.karn.sanctum.heads.replaying import ReplayFailedError, replay_command, run_replay
from esper.karn.sanctum.schema import IncidentState
from esper.karn.store.rank_folders import rank_folder
from esper.karn.text.palette import Palette

_TICK_SECONDS: Final = 0.5

#: A run's directory, and the number of an incident in it.
_Which = tuple[Path, int]


class IncidentPanel(Panel):
    """Shows one incident, and replays it in another process.

    Args:
        id: of the widget.
        command: returns the command that replays an incident; `esper replay` by default.
    """

    SHOWS: ClassVar[tuple[str, ...]] = (
        "incidents",
        "interventions.incidents",
        "interventions.incidents_not_kept",
        "interventions.updates_repeated",
        "interventions.updates_skipped",
        "interventions.updates_rolled_back",
        "interventions.halts",
    )
    BORDER_TITLE = "Incident"
    ABOUT = "one bad update, and its replay"

    def __init__(
        self,
        *,
        id: str | None = None,
        command: Callable[[Path, int], list[str]] = replay_command,
    ) -> None:
        super().__init__(id=id)
        self._command = command
        self._incident: IncidentState | None = None
        self._nothing = ""
        self._replays: dict[_Which, ReplayState] = {}  # of the incidents replayed so far
        self._replaying: _Which | None = None
        self._started = 0.0
        self._timer: Timer | None = None

    def choose(self, incident: IncidentState | None, nothing: str = "") -> None:
        """Show another incident, or the reason why there is none."""
        if (incident, nothing) != (self._incident, self._nothing):
            self._incident, self._nothing = incident, nothing
            if self._view is not None:
                self.scroll_home(animate=False)
                self.redraw()

    def part(self, view: View) -> object:
        snapshot = view.snapshot
        return snapshot.tamiyo.evidence, snapshot.log, view.directory

    def draw(self, view: View, width: int, height: int, palette: Palette) -> Text:
        if self._incident is None:
            return Text(self._nothing, style=palette.muted)
        which = self._which(view, self._incident)
        replay = None if which is None else self._replays.get(which)
        lines = render_incident(view.snapshot, self._incident, replay, width, palette)
        return Text("\n", no_wrap=True).join(lines)

    def replay(self) -> None:
        """Start to replay the incident shown, unless that is running already."""
        view, incident = self._view, self._incident
        which = None if view is None or incident is None else self._which(view, incident)
        if which is None or incident is None or which == self._replaying:
            return
        if not incident.can_be_repeated:
            return
        self.stop()
        self._replaying, self._started = which, time.monotonic()
        self._replays[which] = ReplayState()
        self._timer = self.set_interval(_TICK_SECONDS, self._tick)
        self.run_worker(self._replay(which), group="replay", exclusive=True)
        self.redraw()
        self._scroll_to_replay()

    def stop(self) -> None:
        """Stop a running replay and forget it."""
        if self._replaying is not None:
            self.workers.cancel_group(self, "replay")
            del self._replays[self._replaying]
            self._end()

    async def _replay(self, which: _Which) -> None:
        try:
            report = await run_replay(self._command(*which))
        except ReplayFailedError as error:
            state = ReplayState(self._seconds(), failure=str(error))
        else:
            state = ReplayState(self._seconds(), report)
        self._replays[which] = state
        self._end()
        self._scroll_to_replay()

    def _scroll_to_replay(self) -> None:
        """Scroll to the replay, which starts below the first empty line."""
        place = next((y + 1 for y, line in enumerate(self._lines) if not line.plain), 0)
        # The panel has grown, and its scrollbar appears with the next refresh.
        self.call_after_refresh(self.scroll_to, y=place, animate=False, force=True)

    def _end(self) -> None:
        self._replaying = None
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self.redraw()

    def _tick(self) -> None:
        if self._replaying is not None:
            self._replays[self._replaying] = ReplayState(self._seconds())
            self.redraw()

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _which(self, view: View, incident: IncidentState) -> _Which | None:
        if view.directory is None:
            return None
        return rank_folder(view.directory, incident.rank or 0), incident.number

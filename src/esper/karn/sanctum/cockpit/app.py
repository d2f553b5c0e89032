"""The cockpit's Textual app: one screen per key over a run, its time, settings and exit."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from msgspec import structs
from textual import work
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.filter import LineFilter
from textual.notifications import SeverityLevel
from textual.screen import Screen

from esper.karn.sanctum.cockpit.closing_controls import ClosingControls, EndRead
from esper.karn.sanctum.cockpit.keys import KEYS
from esper.karn.sanctum.cockpit.light_controls import LightControls
from esper.karn.sanctum.cockpit.observer import Observer, RunObserver
from esper.karn.sanctum.cockpit.poller import Poller
from esper.karn.sanctum.cockpit.screen_map import SCREENS, make_screen, offers
from esper.karn.sanctum.cockpit.settings import (
    THEME_NAMES,
    Settings,
    SettingsError,
    SettingsFile,
)
from esper.karn.sanctum.cockpit.signal_exit import end_at_signals
from esper.karn.sanctum.cockpit.time_controls import TimeControls
from esper.karn.sanctum.dialogs.trainer import Outcome, TrainerChild
from esper.karn.sanctum.drawing.line_filters import AsciiFilter, NoColourFilter
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.drawing.themes import MONOCHROME_THEME, theme_called, themes
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_screen import RunScreen, ViewUpdated
from esper.karn.sanctum.frame.time_bar import TimeBar
from esper.leyline.text.plain_text import printable

if TYPE_CHECKING:
    from esper.karn.sanctum.runs.runs_panel import RunsPanel


class SanctumApp(App[Outcome]):
    """Sanctum over one run at a time; its result is how the user left it.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
        child: the training process that was started together with Sanctum, if any.
        observer: reads the run; a `RunObserver` by default.
        clock: returns the current time in seconds since the epoch.
        settings: theme, bell and so on; the defaults if None.
        settings_file: where changed settings are written; nowhere if None.
    """

    TITLE = "Sanctum"
    CSS_PATH = "sanctum.tcss"
    # CSS classes of the screen, by the columns of the terminal.
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012  (mypy takes Textual's declaration for an instance's)
        (0, "-narrow"),
        (110, "-medium"),
        (170, "-wide"),
    ]
    # A low terminal has room for the lights only.
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012  (as above)
        (0, "-lowest"),
        (24, "-low"),
        (36, "-tall"),
    ]
    ALLOW_IN_MAXIMIZED_VIEW = "KeyLine, #time"
    ALLOW_SELECT = False  # panels draw their own lines, in which Textual cannot select text
    DEFAULT_MODE = "Overview"
    BINDINGS: ClassVar[list[BindingType]] = KEYS

    def __init__(
        self,
        directory: Path | None,
        run_dir: Path,
        *,
        child: TrainerChild | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
        settings: Settings | None = None,
        settings_file: SettingsFile | None = None,
    ) -> None:
        self._ascii = AsciiFilter(enabled=False)
        self._no_colour = NoColourFilter()
        super().__init__()
        builtin = set(self.available_themes)
        for theme in themes():
            self.register_theme(theme)
        self.settings = settings or Settings()
        self._settings_file = settings_file
        self._apply_settings()
        # Textual's own themes use red and amber for more than alerts.
        for name in builtin:
            self.unregister_theme(name)
        self.animation_level = "none"  # animations are slow over ssh
        self.ended_by: signal.Signals | None = None  # the signal that ended it, if one did
        self._child = child
        self._child_run = directory
        self._directory = directory
        self.run_dir = run_dir
        observer = observer or RunObserver(directory, run_dir)
        self._time = TimeControls(observer)
        self._closing_controls = ClosingControls(self)
        self._poller = Poller(
            observer,
            run_dir,
            clock=clock,
            # While the app closes, there is no screen.
            screen=lambda: self.run_screen if self.screen_stack else None,
            complete=self._with_child,
        )
        self._lights = LightControls(self, clock, self._poller.poll_now)
        # Each screen is a separate mode of Textual, so it keeps its focus and scroll positions.
        for title, where in SCREENS.values():
            self.add_mode(title, partial(make_screen, where))

    @property
    def run_screen(self) -> RunScreen:
        """The current screen, even while a dialog covers it."""
        screen = self.screen_stack[0]
        assert isinstance(screen, RunScreen)
        return screen

    @property
    def view(self) -> View | None:
        """The view that is shown; None before the first."""
        return self.run_screen.view

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return the filters that every line of the screen passes through."""
        own = [(self._no_colour, self.no_color), (self._ascii, self._ascii.enabled)]
        return [*super().get_line_filters(), *(one for one, is_on in own if is_on)]

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Return the entries of the command palette."""
        from esper.karn.sanctum.cockpit.palette_entries import (
            entries_of,  # not needed for the first paint
        )

        return entries_of(self, screen)

    def on_load(self) -> None:
        """Handle signals before the terminal is changed."""
        end_at_signals(asyncio.get_running_loop(), self._end_by)

    def on_mount(self) -> None:
        """Start reading the run."""
        self.theme_changed_signal.subscribe(self, lambda _theme: self.run_screen.redraw())
        self._lights.start()
        if self._settings_file is not None and self._settings_file.problem is not None:
            self.notify(self._settings_file.problem, severity="warning", markup=False)
        self.call_after_refresh(self.explain_new_screen)
        self._look()

    def _end_by(self, number: signal.Signals) -> None:
        """Exit in order, so that the terminal is restored."""
        self.ended_by = number
        self.exit()

    def on_unmount(self) -> None:
        """End the worker at once."""
        self._remember_visit()
        self._poller.end()

    # Reading the run

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        self._poller.run()

    def _with_child(self, view: View) -> View:
        """Add what only the parent of the training process can know: that it died silently."""
        if self._child is None or self._directory != self._child_run:
            return view
        code = self._child.poll()
        if not code or view.status.is_over or view.doubt.error is not None:
            return view
        error = (
            f"the training process ended with exit code {code} without giving a reason: "
            "see its output in the run's console.log"
        )
        return replace(view, doubt=replace(view.doubt, error=error))

    def on_view_updated(self, message: ViewUpdated) -> None:
        """Update the controls for a view that a screen has shown."""
        self._time.seen(message.view)
        self._closing_controls.seen(message.view)
        self._lights.seen(message.view)
        if not offers(message.view.snapshot.run, self.current_mode):
            self.action_open(self.DEFAULT_MODE)

    def action_open(self, title: str) -> None:
        """Open one of the screens over the run."""
        view = self.view
        self._leave_screen()
        self.switch_mode(title)
        self.explain_new_screen()
        screen = self.run_screen
        screen.set_speed(self._time.speed)
        screen.show_lamps(self._lights.lamps)
        screen.redraw()  # the theme may have changed since it was last shown
        screen.wake()
        if view is not None:
            screen.post_message(ViewUpdated(view))
        self._poller.poll_now()

    def explain_new_screen(self) -> None:
        """On the first visit to a screen, show next to each title what the panel is about."""
        if self._settings_file is not None:
            visited = self._settings_file.settings.visited.split()
            self.run_screen.explain(self.current_mode not in visited)

    def _leave_screen(self) -> None:
        """Record the visit to the screen, and stop explaining its panels."""
        self.run_screen.explain(False)
        self._remember_visit()

    def _remember_visit(self) -> None:
        if self._settings_file is None:
            return
        visited = self._settings_file.settings.visited.split()
        if self.current_mode not in visited:
            with suppress(SettingsError):  # then the panels explain themselves again
                self._settings_file.change(visited=" ".join([*visited, self.current_mode]))

    def open_run(self, directory: Path) -> None:
        """Show another run."""
        self._directory = directory
        self._poller.observer = RunObserver(directory, self.run_dir)
        self._time = TimeControls(self._poller.observer)
        self.action_open("Overview")

    def on_runs_panel_opened(self, message: "RunsPanel.Opened") -> None:
        """Show the run that was chosen in the list of runs."""
        self.open_run(message.path)

    # The end of a run

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the closing screen only for a run that has ended, and the screens that fit it."""
        if action == "open" and self.view is not None:
            return offers(self.view.snapshot.run, str(parameters[0]))
        if action == "closing":
            return self.view is not None and self.view.status.is_over
        return super().check_action(action, parameters)

    def action_closing(self) -> None:
        """Show how the run ended, and what to do next."""
        self._closing_controls.show()

    def on_end_read(self, message: EndRead) -> None:
        """Open the closing screen."""
        self._closing_controls.show_read(message)

    # Lights

    def action_lamp_test(self) -> None:
        """Show all lights as on for a moment."""
        self._lights.test()

    def action_acknowledge(self) -> None:
        """Acknowledge one light."""
        self._lights.acknowledge_one()

    def action_acknowledge_all(self) -> None:
        """Acknowledge every light that is on."""
        self._lights.acknowledge_all()

    # Time

    def action_step(self, by: int) -> None:
        """Move through time by a number of updates."""
        if self.view is not None:
            self._time.step(self.view, by)
            self._poller.poll_now()

    def action_jump(self, update: int) -> None:
        """Show the state of the run after an update."""
        self._time.go_to(update)
        self._poller.poll_now()

    def action_now(self) -> None:
        """Show the current state of the run, and follow it."""
        self._time.go_to(None)
        self._poller.poll_now()

    def action_play(self) -> None:
        """Play, or pause."""
        if self.view is not None:
            self._time.toggle_play(self.view)
            self._poller.poll_now()

    def action_speed(self) -> None:
        """Choose the next playing speed; the slowest comes after the fastest."""
        if self.view is not None:
            self._time.cycle_speed(self.view)
            self.run_screen.set_speed(self._time.speed)

    def on_time_bar_jumped(self, message: TimeBar.Jumped) -> None:
        """Show the moment that was chosen with the mouse."""
        self._time.go_to(message.update)
        self._poller.poll_now()

    # Settings

    def _apply_settings(self) -> None:
        self.theme = MONOCHROME_THEME if self.no_color else theme_called(self.settings.theme)
        self._ascii.enabled = self.settings.ascii

    def change_setting(self, name: str, value: str | bool) -> None:
        """Change a setting, and save it."""
        self.settings = structs.replace(self.settings, **{name: value})
        self._apply_settings()
        self.refresh_css()  # draws every line again, through the filters that are on now
        self.run_screen.redraw()
        if self._settings_file is None:
            return
        try:
            self._settings_file.change(**{name: value})
        except SettingsError as error:
            self.notify(str(error), severity="warning", markup=False)

    def choose_theme(self, name: str) -> None:
        """Switch to one of `THEME_NAMES`, and save the choice."""
        self.change_setting("theme", name)

    def action_next_theme(self) -> None:
        """Switch to the next theme; the first comes after the last."""
        if self.no_color:
            self.notify("NO_COLOR is set: there is only one theme, without colours")
            return
        following = THEME_NAMES.index(self.settings.theme) + 1
        self.choose_theme(THEME_NAMES[following % len(THEME_NAMES)])

    # The rest

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = True,
    ) -> None:
        """Show a message for some seconds, with control characters in it replaced."""
        super().notify(
            printable(message), title=title, severity=severity, timeout=timeout, markup=markup
        )

    def action_copy_panel(self) -> None:
        """Copy the text of the focused panel to the clipboard of the terminal."""
        panel = self.focused
        if not isinstance(panel, Panel):
            self.notify("no panel has the focus: choose one with tab, then press y")
            return
        text = panel.text
        self.copy_to_clipboard(text)
        name = panel.name_shown or "the line"
        self.notify(f"copied {name}: {len(text.splitlines())} lines", markup=False)

    def action_help(self) -> None:
        """Show what every key does and what every sign means."""
        from esper.karn.sanctum.dialogs.help import HelpScreen  # not needed for the first paint

        focused = self.focused
        self.run_screen.explain(True)
        self.push_screen(HelpScreen(focused if isinstance(focused, Panel) else None))

    def action_why(self) -> None:
        """Show every reason for the master status."""
        from esper.karn.sanctum.dialogs.reasons import ReasonsDialog  # as above

        if self.view is not None:
            self.push_screen(ReasonsDialog(self.view))

    async def action_quit(self) -> None:
        """Leave; while training runs as a child process, ask first whether to detach or stop."""
        # After a run has ended there is nothing to decide, even while its process still exits.
        is_over = (
            self.view is not None
            and self.view.status.is_over
            and self._directory == self._child_run
        )
        if self._child is None or is_over or self._child.poll() is not None:
            self.exit("quit")
            return
        from esper.karn.sanctum.dialogs.quit_dialog import QuitDialog  # as above

        if not isinstance(self.screen, QuitDialog):
            is_script = self.view is not None and self.view.is_of_script
            dialog = QuitDialog(self._child.pid, is_script=is_script)
            self.push_screen(dialog, self._leave)

    def _leave(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            # Training may have ended while the dialog was open.
            is_over = self._child is None or self._child.poll() is not None
            self.exit("quit" if is_over else outcome)

"""The cockpit: opens screens over a run, moves through its time, and leaves when asked to."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from textual import work
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.filter import LineFilter
from textual.message import Message
from textual.notifications import SeverityLevel
from textual.screen import Screen

from esper.karn.sanctum.cockpit.ending import end_at_signals
from esper.karn.sanctum.cockpit.keys import KEYS
from esper.karn.sanctum.cockpit.lookout import Lookout
from esper.karn.sanctum.cockpit.screen_map import SCREENS, make_screen
from esper.karn.sanctum.cockpit.settings import (
    THEME_NAMES,
    Settings,
    SettingsError,
    SettingsFile,
)
from esper.karn.sanctum.cockpit.time_controls import TimeControls
from esper.karn.sanctum.cockpit.watch import RunWatch, Watch
from esper.karn.sanctum.dialogs.trainer import Outcome, TrainerChild
from esper.karn.sanctum.drawing.filters import AsciiFilter, NoColourFilter
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.drawing.themes import MONOCHROME_THEME, theme_called, themes
from esper.karn.sanctum.fold.attention import (
    Attention,
    Lamps,
    Light,
    light_words,
    lit_lights,
    unacknowledged,
)
from esper.karn.sanctum.fold.view import View
from esper.karn.sanctum.frame.run_screen import RunScreen, Seen
from esper.karn.sanctum.frame.time_bar import TimeBar
from esper.leyline.plain_text import printable
from esper.leyline.plurals import counted, plural

if TYPE_CHECKING:
    from esper.karn.reports.run_end import RunEnd
    from esper.karn.sanctum.runs.runs_panel import RunsPanel

#: Half the time from one blink of a light to the next.
BLINK_SECONDS: Final = 0.5
LAMP_TEST_SECONDS: Final = 2.0


class EndRead(Message):
    """How a run ended was read."""

    def __init__(self, directory: Path, end: "RunEnd") -> None:
        super().__init__()
        self.directory = directory
        self.end = end


class SanctumApp(App[Outcome]):
    """Sanctum over one run at a time; returns how it was left.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
        child: the training process that Sanctum was opened over, if it was.
        watch: what to look with; a `RunWatch` on the run unless a test gives another.
        clock: returns the time of now, in seconds since the epoch.
        settings: how it looks.
        settings_file: where a setting that is changed is written down; nowhere if None.
    """

    TITLE = "Sanctum"
    CSS_PATH = "sanctum.tcss"
    # The classes that the screen has in sanctum.tcss, by the columns of the terminal.
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012  (mypy takes Textual's declaration for an instance's)
        (0, "-narrow"),
        (110, "-medium"),
        (170, "-wide"),
    ]
    # A low terminal has no room for more than the lights.
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012  (as above)
        (0, "-lowest"),
        (24, "-low"),
        (36, "-tall"),
    ]
    ALLOW_IN_MAXIMIZED_VIEW = "KeyLine, #time"
    ALLOW_SELECT = False  # panels draw lines of their own, of which Textual cannot select a part
    DEFAULT_MODE = "Overview"
    BINDINGS: ClassVar[list[BindingType]] = KEYS

    def __init__(
        self,
        directory: Path | None,
        run_dir: Path,
        *,
        child: TrainerChild | None = None,
        watch: Watch | None = None,
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
        # In other themes red and amber would not be kept for alerts.
        for name in builtin:
            self.unregister_theme(name)
        self.animation_level = "none"  # a cockpit is read, often over ssh: nothing glides
        self.ended_by: signal.Signals | None = None  # instead of by somebody's key
        self._child = child
        self._child_run = directory
        self._directory = directory
        self.run_dir = run_dir
        watch = watch or RunWatch(directory, run_dir)
        self._clock = clock
        self._time = TimeControls(watch)
        self._attention = Attention()
        self._closed_run: Path | None = None  # whose end was shown
        self._lamps = Lamps()
        self._lookout = Lookout(
            watch,
            run_dir,
            clock=clock,
            # While the app closes, there is none any more.
            screen=lambda: self.run_screen if self.screen_stack else None,
            complete=self._with_child,
        )
        # A screen is a mode of its own, and so keeps its focus and what was scrolled.
        for title, where in SCREENS.values():
            self.add_mode(title, partial(make_screen, where))

    @property
    def run_screen(self) -> RunScreen:
        """The screen over the run that is open, also while a dialog is in front of it."""
        screen = self.screen_stack[0]
        assert isinstance(screen, RunScreen)
        return screen

    @property
    def view(self) -> View | None:
        """The view that is being shown; None before the first."""
        return self.run_screen.view

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return what every line goes through before it is on the screen."""
        own = [(self._no_colour, self.no_color), (self._ascii, self._ascii.enabled)]
        return [*super().get_line_filters(), *(one for one, is_on in own if is_on)]

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Return what the command palette offers."""
        from esper.karn.sanctum.cockpit.commands import (
            commands_of,  # not needed for the first paint
        )

        return commands_of(self, screen)

    def on_load(self) -> None:
        """Be ready for signals, before anything is done to the terminal."""
        end_at_signals(asyncio.get_running_loop(), self._end_by)

    def on_mount(self) -> None:
        """Begin to look at the run."""
        self.theme_changed_signal.subscribe(self, lambda _theme: self.run_screen.redraw())
        self._blinking = self.set_interval(BLINK_SECONDS, self._blink, pause=True)
        if self._settings_file is not None and self._settings_file.problem is not None:
            self.notify(self._settings_file.problem, severity="warning", markup=False)
        self.call_after_refresh(self.explain_new_screen)
        self._look()

    def _end_by(self, number: signal.Signals) -> None:
        """Leave in order, so that the terminal is as it was before."""
        self.ended_by = number
        self.exit()

    def on_unmount(self) -> None:
        """Let the worker end at once."""
        self._remember_visit()
        self._lookout.end()

    # Looking at the run

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        self._lookout.run()

    def _with_child(self, view: View) -> View:
        """Add what only the parent of a training process knows: that it died before it said so."""
        if self._child is None or self._directory != self._child_run:
            return view
        code = self._child.poll()
        if not code or view.status.is_over or view.doubt.error is not None:
            return view
        error = (
            f"the training process ended with exit code {code} and did not say why: "
            "its output is in the run's console.log"
        )
        return replace(view, doubt=replace(view.doubt, error=error))

    def on_seen(self, message: Seen) -> None:
        """See to what a view asks of the cockpit as a whole, once a screen has shown it."""
        view = message.view
        self._time.seen(view)
        self._closing_seen(view)
        if self._attention.rings(view) and self.settings.bell:
            self.bell()
        if unacknowledged(view) and not self.settings.reduced_motion:
            self._blinking.resume()
        else:
            self._blinking.pause()
            self._show_lamps(replace(self._lamps, bright=True))

    def action_open(self, title: str) -> None:
        """Open one of the screens over the run."""
        view = self.view
        self._leave_screen()
        self.switch_mode(title)
        self.explain_new_screen()
        screen = self.run_screen
        screen.set_speed(self._time.speed)
        screen.show_lamps(self._lamps)
        screen.redraw()  # it may have missed a change of the theme
        screen.wake()
        if view is not None:
            screen.post_message(Seen(view))
        self._lookout.look_at_once()

    def explain_new_screen(self) -> None:
        """On the first visit to a screen, show what its panels are about."""
        if self._settings_file is not None:
            visited = self._settings_file.settings.visited.split()
            self.run_screen.explain(self.current_mode not in visited)

    def _leave_screen(self) -> None:
        """Remember that the screen was visited; its panels explain themselves no more."""
        self.run_screen.explain(False)
        self._remember_visit()

    def _remember_visit(self) -> None:
        if self._settings_file is None:
            return
        visited = self._settings_file.settings.visited.split()
        if self.current_mode not in visited:
            with suppress(SettingsError):  # where it is not remembered, they explain again
                self._settings_file.change(visited=" ".join([*visited, self.current_mode]))

    def open_run(self, directory: Path) -> None:
        """Watch another run."""
        self._directory = directory
        self._lookout.watch = RunWatch(directory, self.run_dir)
        self._time = TimeControls(self._lookout.watch)
        self.action_open("Overview")

    def on_runs_panel_opened(self, message: "RunsPanel.Opened") -> None:
        """Watch the run that was chosen in the list of all."""
        self.open_run(message.path)

    # The end of a run

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the end of a run once there is one."""
        if action == "closing":
            return self.view is not None and self.view.status.is_over
        return super().check_action(action, parameters)

    def _closing_seen(self, view: View) -> None:
        """Show how the run ended, once, when it has ended or was over when it was opened.

        A dialog that is open stays; a moment of the past that was asked for, and a terminal too
        small for whole screens, go without it.
        """
        if not view.status.is_over:
            self._closed_run = None  # it goes on, perhaps again
            return
        is_due = self.settings.closing and view.directory not in (None, self._closed_run)
        is_busy = view.is_behind or view.position is not None or len(self.screen_stack) > 1
        if is_due and not is_busy and not self.run_screen.is_small:
            self._closed_run = view.directory
            self.action_closing()

    def action_closing(self) -> None:
        """Show how the run ended, and what to do next."""
        if self.view is not None and self.view.directory is not None:
            self._read_end(self.view.directory)

    @work(thread=True, group="closing", exclusive=True)
    def _read_end(self, directory: Path) -> None:
        from esper.karn.reports.run_end import end_of  # not needed for the first paint

        # Not `call_from_thread`: it waits for the event loop, for ever if the app ends meanwhile.
        self.post_message(EndRead(directory, end_of(directory)))

    def on_end_read(self, message: EndRead) -> None:
        """Show how the run ended, unless something else is shown by now."""
        from esper.karn.sanctum.dialogs.closing import ClosingScreen  # as above

        is_open = self.view is not None and self.view.directory == message.directory
        if is_open and len(self.screen_stack) == 1:
            self.push_screen(ClosingScreen(message.end), self._closing_left)

    def _closing_left(self, key: str | None) -> None:
        if key is not None:
            self.simulate_key(key)

    # Lights

    def _blink(self) -> None:
        self._show_lamps(replace(self._lamps, bright=not self._lamps.bright))

    def _show_lamps(self, lamps: Lamps) -> None:
        if lamps != self._lamps:
            self._lamps = lamps
            self.run_screen.show_lamps(lamps)

    def action_lamp_test(self) -> None:
        """Switch all lights on for a moment, to show that they can be; nothing is stored."""
        self._show_lamps(replace(self._lamps, is_test=True))
        self.set_timer(LAMP_TEST_SECONDS, self._end_lamp_test)

    def _end_lamp_test(self) -> None:
        self._show_lamps(replace(self._lamps, is_test=False))

    def action_acknowledge(self) -> None:
        """Acknowledge one light: the chosen one, or of those that wait the first."""
        waiting = self._waiting_lights()
        if waiting is None:
            return
        light = self.run_screen.chosen_light()
        if light is None:
            self.notify("this line has no light: choose one that has, or press A for all lights")
        elif light not in waiting:
            self.notify(f"{light_words(light)} was acknowledged before", markup=False)
        else:
            self._acknowledge_in_view([light], len(waiting) - 1)

    def action_acknowledge_all(self) -> None:
        """Acknowledge every light that is on."""
        waiting = self._waiting_lights()
        if waiting is not None:
            self._acknowledge_in_view(sorted(waiting), 0)

    def _waiting_lights(self) -> frozenset[Light] | None:
        """Return the lights that wait; None, with a note, where there is nothing to acknowledge."""
        view = self.view
        if view is None or not lit_lights(view.snapshot.tamiyo):
            self.notify("no light is on: there is nothing to acknowledge")
            return None
        waiting = unacknowledged(view)
        if not waiting:
            self.notify("every light was acknowledged before")
            return None
        return waiting

    def _acknowledge_in_view(self, lights: Sequence[Light], left: int) -> None:
        assert self.view is not None
        if self.view.directory is not None:
            self._acknowledge(self.view.directory, lights, left)

    @work(thread=True, group="acknowledge")
    def _acknowledge(self, directory: Path, lights: Sequence[Light], left: int) -> None:
        """Write an acknowledgement: beside the run's store, which is never written to from here.

        Args:
            directory: of the run.
            lights: to acknowledge.
            left: how many lights wait beside them.
        """
        from esper.karn.store.acknowledgements import AcknowledgementError, acknowledge, who_am_i

        try:
            acknowledge(directory, lights, who_am_i(), self._clock())
        except AcknowledgementError as error:
            message = str(error)
            self.notify(message, severity="error", markup=False)
        else:
            message = f"acknowledged: {', '.join(map(light_words, lights))}"
            if left:
                waits = f"{counted(left, 'light')} {plural(left, 'waits', 'wait')}"
                message += f"; {waits}: a for the next, A for all"
            self.notify(message, markup=False)
        self._lookout.look_at_once()

    # Time

    def action_step(self, by: int) -> None:
        """Move through time by a number of updates."""
        if self.view is not None:
            self._time.step(self.view, by)
            self._lookout.look_at_once()

    def action_jump(self, update: int) -> None:
        """Show the run as it was after an update."""
        self._time.go_to(update)
        self._lookout.look_at_once()

    def action_now(self) -> None:
        """Show the run as it is now, and follow it."""
        self._time.go_to(None)
        self._lookout.look_at_once()

    def action_play(self) -> None:
        """Play, or pause."""
        if self.view is not None:
            self._time.toggle_play(self.view)
            self._lookout.look_at_once()

    def action_speed(self) -> None:
        """Play faster, or slowly again."""
        if self.view is not None:
            self._time.cycle_speed(self.view)
            self.run_screen.set_speed(self._time.speed)

    def on_time_bar_jumped(self, message: TimeBar.Jumped) -> None:
        """Show the moment that was chosen with the mouse."""
        self._time.go_to(message.update)
        self._lookout.look_at_once()

    # Settings

    def _apply_settings(self) -> None:
        self.theme = MONOCHROME_THEME if self.no_color else theme_called(self.settings.theme)
        self._ascii.enabled = self.settings.ascii

    def change_setting(self, name: str, value: str | bool) -> None:
        """Change a setting, and remember it."""
        self.settings = replace(self.settings, **{name: value})  # type: ignore[arg-type]  # by name
        self._apply_settings()
        self.refresh_css()  # every line is drawn anew, through other filters
        self.run_screen.redraw()
        if self._settings_file is None:
            return
        try:
            self._settings_file.change(**{name: value})
        except SettingsError as error:
            self.notify(str(error), severity="warning", markup=False)

    def choose_theme(self, name: str) -> None:
        """Switch to one of the themes that settings know, and remember it."""
        self.change_setting("theme", name)

    def action_next_theme(self) -> None:
        """Switch to the next theme; going on comes back to where it began."""
        if self.no_color:
            self.notify("NO_COLOR is set: there is one theme, without colours")
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
        """Show a message for some seconds; the names in it can hold anything."""
        super().notify(
            printable(message), title=title, severity=severity, timeout=timeout, markup=markup
        )

    def action_copy_panel(self) -> None:
        """Copy the text of the focused panel to the clipboard, by the terminal's own way."""
        panel = self.focused
        if not isinstance(panel, Panel):
            self.notify("no panel is focused: tab moves to one, y copies it")
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
        """Tell every reason for the master status."""
        from esper.karn.sanctum.dialogs.reasons import ReasonsDialog  # as above

        if self.view is not None:
            self.push_screen(ReasonsDialog(self.view))

    async def action_quit(self) -> None:
        """Leave; over a live training process ask first what is to become of it."""
        # A run that said it is over has nothing left to decide, though its process may linger.
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
            self.push_screen(QuitDialog(self._child.pid), self._leave)

    def _leave(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            # Training may have ended by itself while the question was being answered.
            is_over = self._child is None or self._child.poll() is not None
            self.exit("quit" if is_over else outcome)

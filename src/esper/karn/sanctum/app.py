"""The cockpit: opens the first screen over a run, and leaves when asked to."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Final

from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.worker import get_current_worker

from esper.karn.sanctum.screens.run_screen import RunScreen, Seen
from esper.karn.sanctum.themes import DARK_THEME, LIGHT_THEME, MONOCHROME_THEME, themes
from esper.karn.sanctum.timeline import Timeline
from esper.karn.sanctum.trainer import Outcome, TrainerChild
from esper.karn.sanctum.view import View
from esper.karn.sanctum.watch import RunWatch, Watch
from esper.karn.sanctum.widgets.time_bar import TimeBar

#: How long the cockpit waits between two looks at the run.
PERIOD_SECONDS: Final = 0.25
#: The screens by the key that opens them: title, and "module:class", imported when first opened.
SCREENS: Final = {
    "1": ("Overview", "esper.karn.sanctum.screens.overview:OverviewScreen"),
    "2": ("Heads", "esper.karn.sanctum.screens.heads:HeadsScreen"),
    "3": ("Hosts", "esper.karn.sanctum.screens.hosts:HostsScreen"),
    "4": ("Decisions", "esper.karn.sanctum.screens.decisions:DecisionsScreen"),
    "5": ("Log", "esper.karn.sanctum.screens.log:LogScreen"),
    "6": ("Runs", "esper.karn.sanctum.screens.runs:RunsScreen"),
}


def make_screen(where: str) -> RunScreen:
    """Import and make a screen, given as "module:class"."""
    module, _, name = where.partition(":")
    screen = getattr(import_module(module), name)()
    assert isinstance(screen, RunScreen)
    return screen


class SanctumApp(App[Outcome]):
    """Sanctum over one run; returns how it was left.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
        child: the training process that Sanctum was opened over, if it was.
        watch: what to look with; a `RunWatch` on the run unless a test gives another.
        clock: returns the time of now, in seconds since the epoch.
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
    VERTICAL_BREAKPOINTS = [(0, "-low"), (36, "-tall")]  # noqa: RUF012  (as above)
    ALLOW_IN_MAXIMIZED_VIEW = "KeyLine, #time"
    ALLOW_SELECT = False  # panels draw lines of their own, of which Textual cannot select a part
    DEFAULT_MODE = "Overview"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key, f"open('{title}')", title, tooltip=f"To the screen {title}")
            for key, (title, _) in SCREENS.items()
        ),
        Binding("q", "quit", "Quit", tooltip="Leave Sanctum"),
        Binding("ctrl+q,ctrl+c", "quit", show=False, tooltip="Leave Sanctum"),
        Binding("question_mark,f1", "help", "Help", tooltip="Show this help"),
        Binding("comma", "step(-1)", show=False, tooltip="Back by one update"),
        Binding("full_stop", "step(1)", show=False, tooltip="On by one update"),
        Binding("less_than_sign", "step(-10)", show=False, tooltip="Back by ten updates"),
        Binding("greater_than_sign", "step(10)", show=False, tooltip="On by ten updates"),
        Binding("p", "play", "Play", tooltip="Play the run from the moment shown, or pause"),
        Binding("s", "speed", show=False, tooltip="Play at 1, 4 or 16 updates per second"),
        Binding("n", "now", "Now", tooltip="To now"),
        Binding("d", "toggle_theme", "Dark/light", tooltip="Switch the theme"),
    ]

    def __init__(
        self,
        directory: Path | None,
        run_dir: Path,
        *,
        child: TrainerChild | None = None,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        builtin = set(self.available_themes)
        for theme in themes():
            self.register_theme(theme)
        self._dark_theme = MONOCHROME_THEME if self.no_color else DARK_THEME
        self.theme = self._dark_theme
        # In other themes red and amber would not be kept for alerts.
        for name in builtin:
            self.unregister_theme(name)
        self.animation_level = "none"  # a cockpit is read, often over ssh: nothing glides
        self._child = child
        self._watch = watch or RunWatch(directory, run_dir)
        self._clock = clock
        self._timeline = Timeline(self._watch)
        self._leaving = threading.Event()
        self._wake = threading.Event()  # there is a reason to look at once
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

    def on_mount(self) -> None:
        """Begin to look at the run."""
        self.theme_changed_signal.subscribe(self, lambda _theme: self.run_screen.redraw())
        self._look()

    def on_unmount(self) -> None:
        """Let the worker end at once."""
        self._leaving.set()
        self._wake.set()

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        """Look at the run until Sanctum is left; the store is only ever read here."""
        worker = get_current_worker()
        while not worker.is_cancelled and not self._leaving.is_set():
            view = self._with_child(self._watch(self._clock()))
            # To the screen and not to the app: it takes messages only when its panels are there.
            self.run_screen.post_message(Seen(view))
            if not view.is_behind:
                self._wake.wait(PERIOD_SECONDS)
                self._wake.clear()

    def _with_child(self, view: View) -> View:
        """Add what only the parent of a training process knows: that it died before it said so."""
        code = None if self._child is None else self._child.poll()
        if not code or view.status.is_over or view.error is not None:
            return view
        return replace(
            view,
            error=f"the training process ended with exit code {code} and did not say why: "
            "its output is in the run's console.log",
        )

    def action_open(self, title: str) -> None:
        """Open one of the screens over the run."""
        view = self.view
        self.switch_mode(title)
        self.run_screen.set_speed(self._timeline.speed)
        self.run_screen.redraw()  # it may have missed a change of the theme
        if view is not None:
            self.run_screen.post_message(Seen(view))

    def action_step(self, by: int) -> None:
        """Move through time by a number of updates."""
        if self.view is not None:
            self._timeline.seen(self.view)
            self._timeline.step(self.view, by)
            self._wake.set()

    def action_jump(self, update: int) -> None:
        """Show the run as it was after an update."""
        self._timeline.go_to(update)
        self._wake.set()

    def action_now(self) -> None:
        """Show the run as it is now, and follow it."""
        self._timeline.go_to(None)
        self._wake.set()

    def action_play(self) -> None:
        """Play, or pause."""
        if self.view is not None:
            self._timeline.toggle_play(self.view)
            self._wake.set()

    def action_speed(self) -> None:
        """Play faster, or slowly again."""
        if self.view is not None:
            self._timeline.cycle_speed(self.view)
            self.run_screen.set_speed(self._timeline.speed)

    def on_time_bar_jumped(self, message: TimeBar.Jumped) -> None:
        """Show the moment that was chosen with the mouse."""
        self._timeline.go_to(message.update)
        self._wake.set()

    def action_toggle_theme(self) -> None:
        """Switch between the dark and the light theme."""
        self.theme = self._dark_theme if self.theme == LIGHT_THEME else LIGHT_THEME

    def action_help(self) -> None:
        """Show what every key does and what every sign means."""
        from esper.karn.sanctum.screens.help import HelpScreen  # not needed for the first paint

        self.push_screen(HelpScreen())

    async def action_quit(self) -> None:
        """Leave; over a live training process ask first what is to become of it."""
        # A run that said it is over has nothing left to decide, though its process may linger.
        is_over = self.view is not None and self.view.status.is_over
        if self._child is None or is_over or self._child.poll() is not None:
            self.exit("quit")
            return
        from esper.karn.sanctum.screens.quit_dialog import QuitDialog  # as above

        if not isinstance(self.screen, QuitDialog):
            self.push_screen(QuitDialog(self._child.pid), self._leave)

    def _leave(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            # Training may have ended by itself while the question was being answered.
            is_over = self._child is None or self._child.poll() is not None
            self.exit("quit" if is_over else outcome)


def run_sanctum(
    directory: Path | None, run_dir: Path, child: TrainerChild | None = None
) -> Outcome:
    """Open Sanctum on this terminal, and return how it was left.

    Args:
        directory: the run's directory, or None for the first run that appears in `run_dir`.
        run_dir: the folder that holds runs.
        child: a training process that Sanctum is opened over. Where the answer is "stop", it is for
            the caller to stop it: Sanctum itself touches no process.
    """
    # None is returned only where the terminal went away: then training must go on.
    outcome = SanctumApp(directory, run_dir, child=child).run()
    if outcome is None:
        return "quit" if child is None or child.poll() is not None else "detach"
    return outcome

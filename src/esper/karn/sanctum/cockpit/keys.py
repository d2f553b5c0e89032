"""The keys that work on every screen; screens and panels add their own."""

from typing import Final

from textual.binding import Binding, BindingType

from esper.karn.sanctum.cockpit.screen_map import SCREENS

KEYS: Final[list[BindingType]] = [
    *(
        Binding(key, f"open('{title}')", title, tooltip=f"Show the screen {title}")
        for key, (title, _) in SCREENS.items()
    ),
    Binding("q", "quit", "Quit", tooltip="Leave Sanctum"),
    Binding("ctrl+q,ctrl+c", "quit", show=False, tooltip="Leave Sanctum"),
    Binding("question_mark,f1", "help", "Help", tooltip="Show this help"),
    Binding("a", "acknowledge", "Ack", tooltip="Acknowledge the chosen light, or the first"),
    Binding("A", "acknowledge_all", "Ack all", tooltip="Acknowledge all lights"),
    Binding("t", "lamp_test", "Lamp test", tooltip="Lamp test: every light on, for 2 s"),
    Binding("z", "closing", "End", tooltip="How the run ended, and what to do next"),
    Binding("w", "why", "Reasons", show=False, tooltip="Show every reason for the status"),
    Binding("comma", "step(-1)", show=False, tooltip="Back by one update"),
    Binding("full_stop", "step(1)", show=False, tooltip="Forward by one update"),
    Binding("less_than_sign", "step(-10)", show=False, tooltip="Back by ten updates"),
    Binding("greater_than_sign", "step(10)", show=False, tooltip="Forward by ten updates"),
    Binding("p", "play", "Play", tooltip="Play the run from the moment shown, or pause"),
    Binding("s", "speed", show=False, tooltip="Play at 1, 4 or 16 updates per second"),
    Binding("n", "now", "Now", tooltip="Back to now"),
    Binding("y", "copy_panel", show=False, tooltip="Copy the focused panel's text"),
    Binding("d", "next_theme", "Theme", tooltip="Next theme"),
    Binding("ctrl+p", "command_palette", show=False, tooltip="Find an action by name"),
]

"""Colours by their purpose. Red and amber are for alerts only."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Palette:
    """Rich colours by purpose."""

    ink: str  # values
    muted: str  # labels
    faint: str  # what is off, empty or missing
    accent: str  # the focus, and what is in progress
    curve: str  # histories
    good: str
    warning: str
    critical: str
    ground: str  # the background
    on_alert: str  # text on a background of `warning` or `critical`


DARK: Final = Palette(
    ink="#d3dbe6",
    muted="#8b98a9",
    faint="#4d596a",
    accent="#6fb3d2",
    curve="#4f87a3",
    good="#7fc29b",
    warning="#f2b84b",
    critical="#ff6161",
    ground="#10141b",
    on_alert="#10141b",
)
LIGHT: Final = Palette(
    ink="#20262e",
    muted="#5b6673",
    faint="#a3abb5",
    accent="#1f6f96",
    curve="#5a8fae",
    good="#1c7a55",
    warning="#a05f00",
    critical="#b00f2a",
    ground="#f6f5f1",
    on_alert="#ffffff",
)
#: High contrast: at least 7 for all text.
CONTRAST: Final = Palette(
    ink="#ffffff",
    muted="#d2d6dc",
    faint="#8c939d",
    accent="#6fd3ff",
    curve="#58b4ff",
    good="#8dffb0",
    warning="#ffd23f",
    critical="#ff7d7d",
    ground="#000000",
    on_alert="#000000",
)
#: For terminals without colours: alerts are the brightest.
MONOCHROME: Final = Palette(
    ink="#b4b4b4",
    muted="#8c8c8c",
    faint="#5a5a5a",
    accent="#d8d8d8",
    curve="#787878",
    good="#b4b4b4",
    warning="#ffffff",
    critical="#ffffff",
    ground="#101010",
    on_alert="#101010",
)
#: The terminal's own sixteen colours, for output on an unknown background.
TERMINAL: Final = Palette(
    ink="default",
    muted="dim",
    faint="bright_black",
    accent="cyan",
    curve="cyan",
    good="green",
    warning="yellow",
    critical="red",
    ground="default",
    on_alert="black",
)

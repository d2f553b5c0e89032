"""Sanctum's Textual themes, made from the palettes of the panels."""

from typing import Final

from textual.theme import Theme

from esper.karn.text.palette import CONTRAST, DARK, LIGHT, MONOCHROME, TERMINAL, Palette

DARK_THEME: Final = "sanctum-dark"
LIGHT_THEME: Final = "sanctum-light"
ANSI_THEME: Final = "sanctum-ansi"
CONTRAST_THEME: Final = "sanctum-contrast"
MONOCHROME_THEME: Final = "sanctum-monochrome"
_PALETTES: Final = {
    DARK_THEME: DARK,
    LIGHT_THEME: LIGHT,
    ANSI_THEME: TERMINAL,
    CONTRAST_THEME: CONTRAST,
    MONOCHROME_THEME: MONOCHROME,
}


#: The terminal's own colours by Textual's names, which differ from Rich's.
_ANSI: Final = Palette(
    ink="ansi_default",
    muted="ansi_default",
    faint="ansi_bright_black",
    accent="ansi_cyan",
    curve="ansi_cyan",
    good="ansi_green",
    warning="ansi_yellow",
    critical="ansi_red",
    ground="ansi_default",
    on_alert="ansi_black",
)
#: Variables that Textual's own widgets need from a theme whose colours cannot be mixed.
_ANSI_VARIABLES: Final = {
    "ansi-background": "ansi_black",
    "ansi-foreground": "ansi_white",
    "border-blurred": "ansi_bright_black",
    "input-cursor-background": "ansi_white",
    "input-cursor-foreground": "ansi_black",
    "input-selection-background": "ansi_bright_blue",
    "input-selection-foreground": "ansi_black",
    "screen-selection-background": "ansi_bright_blue",
    "screen-selection-foreground": "ansi_black",
}


def palette_of(theme: str) -> Palette:
    """Return the palette of one of Sanctum's themes."""
    return _PALETTES[theme]


def theme_called(name: str) -> str:
    """Return the Textual theme for one of `settings.THEME_NAMES`."""
    return f"sanctum-{name}"


def themes() -> list[Theme]:
    """Return Sanctum's themes."""
    return [
        _theme(DARK_THEME, DARK, surface="#171d27", panel="#1e2632", dark=True),
        _theme(LIGHT_THEME, LIGHT, surface="#ebe9e2", panel="#dedbd2", dark=False),
        _theme(CONTRAST_THEME, CONTRAST, surface="#101010", panel="#262626", dark=True),
        _theme(ANSI_THEME, _ANSI, surface="ansi_default", panel="ansi_bright_black", dark=True),
        _theme(MONOCHROME_THEME, MONOCHROME, surface="#1c1c1c", panel="#282828", dark=True),
    ]


def _theme(name: str, palette: Palette, *, surface: str, panel: str, dark: bool) -> Theme:
    return Theme(
        name=name,
        primary=palette.accent,
        secondary=palette.muted,
        accent=palette.accent,
        foreground=palette.ink,
        background=palette.ground,
        surface=surface,
        panel=panel,
        success=palette.good,
        warning=palette.warning,
        error=palette.critical,
        dark=dark,
        ansi=palette is _ANSI,
        variables=(_ANSI_VARIABLES if palette is _ANSI else {})
        | {
            "button-focus-text-style": "bold",
            "muted": palette.muted,
            "faint": palette.faint,
            "footer-background": palette.ground,
            "footer-key-foreground": palette.accent,
            "footer-key-background": palette.ground,
            "footer-description-foreground": palette.muted,
            "footer-description-background": palette.ground,
            "footer-item-background": palette.ground,
            "block-cursor-foreground": palette.on_alert,
            "block-cursor-background": palette.accent,
            "scrollbar": palette.faint,
            "scrollbar-hover": palette.muted,
            "scrollbar-active": palette.accent,
            "scrollbar-background": palette.ground,
            "scrollbar-background-hover": palette.ground,
            "scrollbar-background-active": palette.ground,
        },
    )

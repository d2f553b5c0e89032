"""The palettes: text is readable, and alerts stand out under any colour vision."""

from itertools import combinations

import pytest

from esper.karn.sanctum.cockpit.settings import THEME_NAMES
from esper.karn.sanctum.drawing.themes import palette_of, theme_called, themes
from esper.karn.text.palette import CONTRAST, DARK, LIGHT, MONOCHROME

PALETTES = {"dark": DARK, "light": LIGHT, "contrast": CONTRAST}
TEXT = ("ink", "muted", "accent", "good", "warning", "critical")
#: Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color
#: Vision Deficiency", severity 1.0; they work on linear RGB.
MACHADO = {
    "full colour vision": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def _linear(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def _luminance(colour):
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """Return the contrast ratio of WCAG 2, from 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _lab(linear):
    """Return CIE L*a*b* (D65) of linear sRGB."""
    matrix = (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
    white = (0.95047, 1.0, 1.08883)
    x, y, z = (
        sum(m * c for m, c in zip(row, linear, strict=True)) / w
        for row, w in zip(matrix, white, strict=True)
    )
    fx, fy, fz = (
        t ** (1 / 3) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29 for t in (x, y, z)
    )
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def _seen(colour, vision):
    linear = _linear(colour)
    return [
        min(1.0, max(0.0, sum(m * c for m, c in zip(row, linear, strict=True))))
        for row in MACHADO[vision]
    ]


def difference(one, other, vision):
    """Return ΔE*ab (CIE 1976) of two colours as they are seen."""
    pair = zip(_lab(_seen(one, vision)), _lab(_seen(other, vision)), strict=True)
    return sum((a - b) ** 2 for a, b in pair) ** 0.5


def test_the_measures_are_those_of_the_literature():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert _lab(_linear("#ff0000")) == pytest.approx((53.24, 80.09, 67.20), abs=0.02)
    for vision in MACHADO:
        assert difference("#ffffff", "#ffffff", vision) == 0
        assert _seen("#808080", vision) == pytest.approx(_linear("#808080"), abs=1e-4)


@pytest.mark.parametrize("name", [*PALETTES, "monochrome"])
def test_text_can_be_read(name):
    palette = {**PALETTES, "monochrome": MONOCHROME}[name]
    least = 7 if name == "contrast" else 4.5
    for role in TEXT:
        assert contrast(getattr(palette, role), palette.ground) >= least, role
    for fill in (palette.warning, palette.critical):
        assert contrast(palette.on_alert, fill) >= least


@pytest.mark.parametrize("name", PALETTES)
def test_what_is_not_text_can_still_be_seen(name):
    palette = PALETTES[name]
    assert contrast(palette.curve, palette.ground) >= 3
    assert contrast(palette.faint, palette.ground) >= 2


@pytest.mark.parametrize("vision", MACHADO)
@pytest.mark.parametrize("name", PALETTES)
def test_an_alert_differs_from_other_text_under_any_colour_vision(name, vision):
    palette = PALETTES[name]
    roles = ("critical", "warning", "good", "ink")
    for one, other in combinations(roles, 2):
        colours = getattr(palette, one), getattr(palette, other)
        # 2.3 is just noticeable side by side; across a screen it takes several times that.
        assert difference(*colours, vision) >= 15, (one, other)


def test_every_theme_that_settings_know_has_a_palette():
    names = {theme.name for theme in themes()}
    for name in THEME_NAMES:
        assert theme_called(name) in names
        assert palette_of(theme_called(name))

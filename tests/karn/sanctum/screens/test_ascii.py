"""Everything that is ever on the screen has a sign in ASCII."""

import sys
import unicodedata
from collections import Counter

import pytest
from rich.cells import cell_len

from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.drawing.ascii import to_ascii
from esper.karn.sanctum.drawing.charts import BLOCKS, NONFINITE_SIGNS
from esper.karn.sanctum.drawing.seed_stages import STAGE_SIGNS
from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.frame.run_header import render_header
from esper.karn.sanctum.frame.time_bar import render_time_bar
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import LIT, UNLIT


def test_any_text_becomes_ascii_of_the_same_width():
    for number in range(32, sys.maxunicode):
        character = chr(number)
        if unicodedata.category(character) in ("Cs", "Cn", "Cc"):
            continue
        plain = to_ascii.__wrapped__(character)
        assert plain.isascii()
        assert len(plain) == cell_len(character), hex(number)


@pytest.mark.parametrize(
    "signs",
    [[LIT, UNLIT], list(NONFINITE_SIGNS.values()), list(STAGE_SIGNS.values()), BLOCKS, "━─"],
)
def test_signs_that_differ_still_do(signs):
    assert max(Counter(map(to_ascii, signs)).values()) == 1


def test_the_sign_of_the_command_palette_has_an_ascii_form():
    assert to_ascii("🔎") == "> "


def test_progress_bars_stay_readable_in_ascii(views):
    position = TimePosition(update=18, updates=36)
    bar = to_ascii(render_time_bar(views.view(position=position), 80).plain)
    assert "==|--" in bar
    assert "==--" in to_ascii(render_header(views.view(), 100, 2).plain)


def test_a_curve_of_dots_keeps_its_height():
    rows = [chr(0x2800 + dots) for dots in (0x01, 0x02, 0x04, 0x40)]
    assert len(set(map(to_ascii, rows))) == 4
    assert to_ascii("⠀") == " "


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (30, 8)])
async def test_no_screen_shows_anything_else(views, sanctum, seen, screen_text, size):
    app = sanctum(
        views.view(views.broken(), error="läuft nicht: 走"),
        settings=Settings(ascii=True, reduced_motion=True),
    )
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        for key in (None, "question_mark", "escape", "2", "3", "4", "5", "6", "ctrl+p", "escape"):
            if key is not None:
                await pilot.press(key)
                await pilot.pause()
            text = "\n".join(screen_text(app))
            assert text.isascii(), [c for c in text if not c.isascii()]

"""The layouts: what is visible at which size, and the message where the terminal is too small."""

from dataclasses import replace

import pytest

from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.frame.run_screen import SMALLEST
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import (
    DISPLAY_TO_LEYLINE_KEY,
    LIT,
    UNLIT,
)

SIZES = [(80, 24), (120, 40), (200, 60), SMALLEST]
TOO_SMALL = [(1, 1), (10, 3), (40, 10), (SMALLEST[0] - 1, 40), (120, SMALLEST[1] - 1)]


@pytest.mark.parametrize("size", SIZES)
async def test_everything_essential_is_seen_without_scrolling(
    views, sanctum, seen, screen_text, size
):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        lines = screen_text(app)
    text = "\n".join(lines)
    for expected in ("amber", "LIVE", "update 36", "288/400", "op went Inf", "1:06:40", "Score"):
        assert expected in text
    assert all(name in text for name in DISPLAY_TO_LEYLINE_KEY)
    for label in ("Inf", "NaN"):
        (row,) = [line for line in lines if line.strip().startswith(label)]
        assert row.count(LIT) + row.count(UNLIT) == len(DISPLAY_TO_LEYLINE_KEY)
    for title in ("Action heads", "Policy", "Hosts", "Log"):
        assert title in text
    assert "1 skipped, 1 rolled back" in text
    # Where it is not in sight, it is reached by scrolling or zooming.
    assert ("36/4/2  now" in text) == (size[1] >= 40)


async def test_the_evidence_is_a_key_away_on_a_small_terminal(views, sanctum, seen, screen_text):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("enter")
        await pilot.pause()
        assert any("36/4/2  now" in line for line in screen_text(app))


async def test_the_room_for_evidence_comes_with_the_evidence(views, sanctum, seen):
    app = sanctum(views.view(views.healthy()))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        heads = app.screen.query_one("#heads")
        before = heads.size.height
        app.shown.append(views.view(views.broken()))
        await seen(pilot)
        assert heads.size.height > before


@pytest.mark.parametrize("size", SIZES)
async def test_no_panel_reaches_beyond_the_screen(views, sanctum, seen, size):
    app = sanctum(views.view(error="something is wrong with the store of this run"))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        for panel in app.screen.query(Panel):
            assert panel.size.height > 0 or not panel.display
            assert app.screen.region.contains_region(panel.region)


@pytest.mark.parametrize("size", TOO_SMALL)
async def test_a_terminal_that_is_too_small_for_a_screen_shows_the_run_in_a_few_lines(
    views, sanctum, seen, screen_text, size
):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        text = " ".join(" ".join(screen_text(app)).split())
    if size[0] >= 40:
        assert text.startswith("● CRITICAL")
        assert "op" in text
    assert "Action heads" not in text


async def test_it_follows_the_size_of_the_terminal(views, sanctum, seen, screen_text):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=(200, 60)) as pilot:
        await seen(pilot)
        for width, height in [(80, 24), (20, 5), (120, 40), (200, 60)]:
            await pilot.resize_terminal(width, height)
            await pilot.pause(0.05)
            text = "\n".join(screen_text(app))
            assert ("Action heads" in text) == (width >= 72)
            assert ("Log p min" in text) == (width == 200)
            # The scores for comparison are in the chart, or else in the title.
            title = "Policy · hand-written rule 0.78"
            assert (title in text) == (width == 80)
            title = "Policy · random 0.60, hand-written rule 0.78"
            assert (title in text) == (width == 120)


async def test_before_the_first_run_it_says_what_it_waits_for(views, sanctum, seen, screen_text):
    app = sanctum(views.waiting())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        text = "\n".join(screen_text(app))
        assert "● WAITING" in text
        assert "waiting for the first run in /runs" in text
        app.shown.append(views.view())
        await seen(pilot)
        assert "● HEALTHY" in "\n".join(screen_text(app))


async def test_an_unreadable_run_is_reported_until_it_can_be_read_again(
    views, sanctum, seen, screen_text
):
    error = "run.sqlite was written by a newer version of Esper"
    app = sanctum(views.view(error=error))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        assert f"! {error}" in "\n".join(screen_text(app))
        app.shown.append(views.view())
        await seen(pilot)
        assert error not in "\n".join(screen_text(app))


async def test_damaged_events_are_one_sentence(views, sanctum, seen, screen_text):
    healthy = views.healthy()
    app = sanctum(views.view(replace(healthy, run=replace(healthy.run, damaged_events=46))))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        expected = "! 46 events are damaged and left out: figures may have gaps"
        assert expected in "\n".join(screen_text(app))
        app.shown.append(views.view(healthy))
        await seen(pilot)
        assert "left out" not in "\n".join(screen_text(app))


async def test_text_of_a_run_is_never_taken_for_markup(views, sanctum, seen, screen_text):
    app = sanctum(views.view(error="no run in [bold]runs[/nothing]"))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        assert "[bold]runs[/nothing]" in "\n".join(screen_text(app))


async def test_a_trainer_that_died_in_silence_is_reported(views, sanctum, child, screen_text):
    child.code = 3
    app = sanctum(views.waiting(), child=child)
    async with app.run_test(size=(80, 24)) as pilot:
        while app.view is None:
            await pilot.pause(0.01)
        await pilot.pause()
        text = " ".join(" ".join(screen_text(app)).split())
    assert "! the training process ended with exit code 3" in text
    assert "● NO DATA" in text

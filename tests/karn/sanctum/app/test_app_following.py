"""What stays visible while a run continues and ends, and other screens are opened."""

from dataclasses import replace

import pytest

from esper.karn.sanctum.frame.run_header import RunHeader
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.schema import LogEntry
from esper.karn.store.liveness import StatusKind


def _view(views, lines, **more):
    log = tuple(LogEntry(n, 1.0, "info", f"line {n}", kind="notice") for n in range(1, lines + 1))
    return views.view(replace(views.healthy(), log=log), **more)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_a_log_that_outgrew_its_room_behind_another_screen_shows_its_end(
    views, sanctum, seen, screen_text, size
):
    app = sanctum(_view(views, 2))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        await pilot.press("3")
        for lines in (20, 90):
            app.shown.append(_view(views, lines))
            await seen(pilot)
        app.shown.append(_view(views, 200, kind=StatusKind.FINISHED, sentence="finished"))
        await seen(pilot)
        await pilot.press("1")
        await seen(pilot)
        await pilot.pause()
        assert any("line 200" in line for line in screen_text(app))
        assert app.screen.query_one(EventLogPanel).follows


async def test_a_log_is_followed_until_the_user_scrolls_up_and_again_at_its_end(
    views, sanctum, seen
):
    app = sanctum(_view(views, 90))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("l", "up")
        panel = app.screen.query_one(EventLogPanel)
        assert not panel.follows
        app.shown.append(_view(views, 120))
        await seen(pilot)
        assert panel.scroll_y < panel.max_scroll_y
        await pilot.press("end")
        await pilot.pause()
        assert panel.follows
        assert panel.scroll_y == panel.max_scroll_y


async def test_a_terminal_that_changes_its_size_does_not_stop_a_log_from_following(
    views, sanctum, seen
):
    app = sanctum(_view(views, 90))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        panel = app.screen.query_one(EventLogPanel)
        for size in ((80, 24), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await pilot.pause()
            assert panel.follows
            assert panel.scroll_y == panel.max_scroll_y


async def test_the_header_of_a_screen_that_was_left_shows_the_newest_view_at_once(
    views, sanctum, seen, monkeypatch
):
    monkeypatch.setattr("esper.karn.sanctum.drawing.panel.REST_SECONDS", 3600.0)
    app = sanctum(views.view())
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pilot.press("2")
        snapshot = views.healthy()
        later = replace(snapshot, run=replace(snapshot.run, update=41))
        app.shown.append(views.view(later))
        await seen(pilot)
        await pilot.press("1")
        await seen(pilot)
        assert "update 41" in app.screen.query_one(RunHeader).text

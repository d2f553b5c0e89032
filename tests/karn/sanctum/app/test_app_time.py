"""Moving through the time of a run: the bar, its keys and its mouse."""

from dataclasses import replace

import pytest

from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.frame.time_bar import TimeBar, render_time_bar, track, update_at

PAST = TimePosition(update=20, updates=36)


@pytest.mark.parametrize(
    ("keys", "position", "asked"),
    [
        (["comma"], None, [("go_to", 35)]),
        (["comma", "comma"], None, [("go_to", 35), ("go_to", 34)]),
        (["less_than_sign"], None, [("go_to", 26)]),
        (["full_stop"], None, [("go_to", None)]),
        (["full_stop"], PAST, [("go_to", 21)]),
        (["greater_than_sign"], PAST, [("go_to", 30)]),
        (["greater_than_sign"] * 2, PAST, [("go_to", 30), ("go_to", None)]),
        (["less_than_sign"] * 3, PAST, [("go_to", 10), ("go_to", 1), ("go_to", 1)]),
        (["n"], PAST, [("go_to", None)]),
        (["p"], PAST, [("play", 1)]),
        (["s", "p"], PAST, [("play", 4)]),
        (["s", "s", "p"], PAST, [("play", 16)]),
        (["s", "s", "s", "p"], PAST, [("play", 1)]),
        (["p"], replace(PAST, speed=1), [("play", 0)]),
        (["s"], replace(PAST, speed=1), [("play", 4)]),
        (["p"], None, [("go_to", 1), ("play", 1)]),
        (["shift+tab", "left"], PAST, [("go_to", 19)]),
        (["shift+tab", "right"], PAST, [("go_to", 21)]),
        (["shift+tab", "home"], PAST, [("go_to", 1)]),
        (["shift+tab", "end"], PAST, [("go_to", None)]),
    ],
)
async def test_the_keys_move_through_time(views, sanctum, seen, keys, position, asked):
    app = sanctum(views.view(position=position))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        for key in keys:
            await pilot.press(key)
        assert app.asked == asked


async def test_before_the_first_update_there_is_no_time_to_move_through(
    views, sanctum, seen, screen_text
):
    app = sanctum(views.waiting())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("comma", "p", "s")
        assert app.asked == []
        assert not any("NOW" in line for line in screen_text(app))


async def test_the_mouse_jumps_and_drags(views, sanctum, seen):
    view = views.view()
    app = sanctum(view)
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        start, length = track(view, 80, 1)
        await pilot.mouse_down(TimeBar, offset=(start, 0))
        await pilot.hover(TimeBar, offset=(start + length // 2, 0))
        await pilot.mouse_up(TimeBar, offset=(start + length // 2, 0))
        await pilot.hover(TimeBar, offset=(start + 3, 0))
        assert app.asked[0] == ("go_to", 1)
        assert app.asked[-1] == ("go_to", update_at(view, start + length // 2, 80, 1))


@pytest.mark.parametrize("width", [1, 9, 20, 72, 80, 200])
@pytest.mark.parametrize("position", [None, PAST, replace(PAST, speed=16), TimePosition(0, 0)])
def test_the_bar_has_the_width_it_was_given(views, width, position):
    bar = render_time_bar(views.view(position=position), width, 16)
    assert bar.cell_len <= width
    if width >= 40:
        assert bar.cell_len == width


def test_the_bar_says_that_what_is_shown_has_passed(views):
    now = render_time_bar(views.view(), 80).plain
    assert now.startswith(" NOW")
    assert "36/36 1×" in now
    past = render_time_bar(views.view(position=PAST), 80).plain
    assert past.startswith(" ‖ PAST")
    assert "20/36 1×" in past
    assert render_time_bar(views.view(position=replace(PAST, speed=4)), 80, 4).plain.startswith(
        " ▶ PAST"
    )


def test_every_update_can_be_reached_with_the_mouse_where_there_is_room(views):
    view = views.view(position=PAST)
    start, length = track(view, 200, 1)
    reached = {update_at(view, cell, 200, 1) for cell in range(start, start + length)}
    assert reached == {None, *range(1, 36)}
    assert update_at(view, -5, 200, 1) == 1
    assert update_at(view, 5000, 200, 1) is None

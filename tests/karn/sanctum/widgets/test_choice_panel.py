"""A panel of lines of which one is chosen."""

import pytest

from esper.karn.sanctum.drawing.choice_panel import CURSOR, chosen_style
from esper.karn.sanctum.hosts.host_list_panel import HostListPanel
from esper.karn.text.palette import DARK, LIGHT, TERMINAL


@pytest.fixture
def list_of_hosts(views, sanctum, seen):
    """Return a function that opens the Hosts screen over so many hosts and runs a test on it."""

    async def run(hosts, test, size=(80, 24)):
        app = sanctum(views.view(views.drilled(hosts)))
        async with app.run_test(size=size) as pilot:
            await seen(pilot)
            await pilot.press("3")
            await pilot.pause()
            await seen(pilot)
            await test(pilot, app.screen.query_one(HostListPanel))

    return run


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        ([], 0),
        (["down"], 1),
        (["down", "down", "up"], 1),
        (["up"], 0),
        (["end"], 63),
        (["end", "down"], 63),
        (["end", "home"], 0),
        (["pagedown", "pageup"], 0),
    ],
)
async def test_keys_move_the_choice(list_of_hosts, keys, chosen):
    async def test(pilot, panel):
        panel.focus()
        await pilot.press(*keys)
        await pilot.pause()
        assert panel.chosen == chosen

    await list_of_hosts(64, test)


async def test_the_choice_stays_in_sight_and_so_does_the_heading(list_of_hosts, screen_text):
    async def test(pilot, panel):
        panel.focus()
        for key in ("end", "home", "pagedown", "pagedown", "down", "pageup"):
            await pilot.press(key)
            await pilot.pause()
            left = [line[:25] for line in screen_text(pilot.app)]
            assert any("host acc." in line for line in left)
            (line,) = [line for line in left if CURSOR in line]
            assert f" {panel.chosen + 1} " in line

    await list_of_hosts(64, test)


async def test_a_page_moves_further_than_a_line(list_of_hosts):
    async def test(pilot, panel):
        panel.focus()
        await pilot.press("pagedown")
        assert panel.chosen > 2

    await list_of_hosts(64, test)


async def test_a_click_chooses_its_line_also_when_scrolled(list_of_hosts):
    async def test(pilot, panel):
        await pilot.click(panel, offset=(6, 4))
        await pilot.pause()
        assert panel.chosen == 2
        await pilot.press("end")
        await pilot.pause()
        # Below the border and the heading: the first of the hosts in sight.
        await pilot.click(panel, offset=(6, 2))
        await pilot.pause()
        assert panel.chosen == panel.scroll_offset.y
        await pilot.click(panel, offset=(6, 1))
        await pilot.pause()
        assert panel.chosen == panel.scroll_offset.y

    await list_of_hosts(64, test)


async def test_the_choice_stays_with_its_host_while_others_go(views, sanctum, seen):
    app = sanctum(views.view(views.drilled(8)))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("3")
        await pilot.pause()
        await seen(pilot)
        panel = app.screen.query_one(HostListPanel)
        panel.choose(3)
        app.shown.append(views.view(views.drilled(4)))
        await seen(pilot)
        assert panel.chosen == 3
        app.shown.append(views.view(views.drilled(2)))
        await seen(pilot)
        assert panel.chosen == 0


async def test_with_nothing_to_choose_from_no_key_fails(views, sanctum, seen):
    app = sanctum(views.waiting())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        for screen in ("2", "3", "4"):
            await pilot.press(screen)
            await pilot.pause()
            await pilot.press("up", "down", "pageup", "pagedown", "home", "end", "enter", "escape")
            await pilot.pause()


def test_the_chosen_line_has_a_ground_of_its_own_where_colours_can_be_mixed():
    assert chosen_style(DARK) != chosen_style(LIGHT)
    assert chosen_style(DARK).startswith("on #")
    assert chosen_style(TERMINAL) == "bold"

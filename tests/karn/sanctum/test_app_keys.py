"""Every key of Sanctum does what the help describes, and the help lists every key."""

import pytest

from esper.karn.sanctum.cockpit.settings import THEME_NAMES, Settings
from esper.karn.sanctum.dialogs.help import HelpScreen, keys_of
from esper.karn.sanctum.dialogs.quit_dialog import QuitDialog
from esper.karn.sanctum.drawing.themes import theme_called
from esper.karn.sanctum.frame.run_screen import RunScreen
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.overview.hosts_panel import HostsPanel
from esper.karn.sanctum.overview.policy_panel import PolicyPanel
from esper.karn.sanctum.overview.screen import OverviewScreen
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import ActionHeadsPanel
from esper.leyline.health import Level, Verdict

PANELS = [ActionHeadsPanel, PolicyPanel, HostsPanel, EventLogPanel]


@pytest.mark.parametrize("key", ["q", "ctrl+q", "ctrl+c"])
async def test_a_viewer_is_left_at_once(views, sanctum, seen, key):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press(key)
    assert app.return_value == "quit"


@pytest.mark.parametrize(
    ("key", "answer", "outcome"),
    [("q", "d", "detach"), ("q", "s", "stop"), ("ctrl+q", "d", "detach"), ("ctrl+c", "s", "stop")],
)
async def test_over_a_live_trainer_leaving_asks_first(
    views, sanctum, seen, child, key, answer, outcome
):
    app = sanctum(views.view(), child=child)
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press(key)
        assert isinstance(app.screen, QuitDialog)
        await pilot.press(answer)
    assert app.return_value == outcome


@pytest.mark.parametrize(
    ("is_script", "words"),
    [(False, "it can be resumed"), (True, "interrupts the script, as Ctrl-C")],
)
async def test_the_question_says_what_stopping_does(
    views, sanctum, seen, child, screen_text, is_script, words
):
    view = views.view(views.watched()) if is_script else views.view()
    app = sanctum(view, child=child)
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("q")
        await pilot.pause()
        assert words in "\n".join(screen_text(app))


@pytest.mark.parametrize("opened_by", ["w", "#master", "#strip"])
async def test_every_reason_for_the_status_can_be_read(
    views, sanctum, seen, screen_text, opened_by
):
    reasons = ("op went Inf first", "the gradient norm is high", "the entropy of slot is low")
    app = sanctum(views.view(verdict=Verdict(Level.CRITICAL, reasons)))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        if opened_by == "#strip":
            await pilot.press("2")
        if opened_by == "w":
            await pilot.press("w")
        else:
            await pilot.click(opened_by)
        await pilot.pause()
        shown = "\n".join(screen_text(app))
        assert all(f"• {one}" in shown for one in reasons)
        await pilot.press("escape")
        assert isinstance(app.screen, RunScreen)


@pytest.mark.parametrize("key", ["escape", "q"])
async def test_staying_goes_back_to_the_cockpit(views, sanctum, seen, child, key):
    app = sanctum(views.view(), child=child)
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press("q", key)
        assert isinstance(app.screen, OverviewScreen)
        assert app.is_running
    assert app.return_value is None


@pytest.mark.parametrize(
    ("keys", "outcome"),
    [
        (["enter"], "detach"),
        (["right", "enter"], "stop"),
        (["tab", "enter"], "stop"),
        (["right", "right", "left", "enter"], "stop"),
    ],
)
async def test_the_answers_are_buttons_too(views, sanctum, seen, child, keys, outcome):
    app = sanctum(views.view(), child=child)
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press("q", *keys)
    assert app.return_value == outcome


@pytest.mark.parametrize(
    ("button", "outcome"), [("detach", "detach"), ("stop", "stop"), ("stay", None)]
)
async def test_the_buttons_can_be_clicked(views, sanctum, seen, child, button, outcome):
    app = sanctum(views.view(), child=child)
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press("q")
        await pilot.click(f"#{button}")
        await pilot.pause()
    assert app.return_value == outcome


async def test_once_the_trainer_has_ended_leaving_does_not_ask(views, sanctum, seen, child):
    app = sanctum(views.view(), child=child)
    child.code = 0
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press("q")
    assert app.return_value == "quit"


async def test_a_trainer_that_ends_during_the_question_is_not_detached_from(
    views, sanctum, seen, child
):
    app = sanctum(views.view(), child=child)
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press("q")
        child.code = 0
        await pilot.press("d")
    assert app.return_value == "quit"


async def test_tab_visits_the_panels_in_order_and_back(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
        visited = [type(app.focused)]
        for _ in PANELS[1:]:
            await pilot.press("tab")
            visited.append(type(app.focused))
        assert visited == PANELS
        await pilot.press("shift+tab")
        assert type(app.focused) is PANELS[-2]


async def test_l_goes_to_the_log(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press("l")
        assert isinstance(app.focused, EventLogPanel)


@pytest.mark.parametrize(
    ("panel", "back"), [*((panel, "enter") for panel in PANELS), (EventLogPanel, "escape")]
)
async def test_enter_gives_a_panel_all_the_room_and_takes_it_back(
    views, sanctum, seen, panel, back
):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        app.screen.query_one(panel).focus()
        await pilot.press("enter")
        await pilot.pause()
        assert app.screen.query_one(panel).region.height >= 22
        await pilot.press(back)
        await pilot.pause()
        assert app.screen.query_one(panel).region.height <= 12


async def test_a_panel_with_all_the_room_shows_more(views, sanctum, seen, screen_text):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        assert not any("Log p min" in line for line in screen_text(app))
        await pilot.press("enter")
        await pilot.pause()
        assert any("Log p min" in line for line in screen_text(app))


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (["home"], 0),
        (["home", "down"], 1),
        (["home", "down", "down", "up"], 1),
        (["home", "pagedown", "pageup"], 0),
    ],
)
async def test_a_focused_panel_scrolls(views, sanctum, seen, keys, place):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("l", *keys)
        await pilot.pause()
        assert app.screen.query_one(EventLogPanel).scroll_y == place


@pytest.mark.parametrize(
    ("key", "back"),
    [("question_mark", "question_mark"), ("f1", "f1"), ("f1", "escape"), ("question_mark", "q")],
)
async def test_help_opens_and_closes(views, sanctum, seen, key, back):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press(key)
        assert isinstance(app.screen, HelpScreen)
        await pilot.press(back)
        assert isinstance(app.screen, OverviewScreen)


async def test_the_help_names_every_key(views, sanctum, seen, screen_text):
    app = sanctum(views.view())
    async with app.run_test(size=(120, 50)) as pilot:
        await seen(pilot)
        keys = dict(keys_of(app.screen))
        shown = " ".join(keys)
        for key in ("q", "?", "f1", "d", "l", "tab", "shift+tab", "↑", "↓", "home", "end", "^p"):
            assert key in shown.split()
        await pilot.press("question_mark")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        for key, meaning in keys.items():
            assert key in text
            assert meaning in text


@pytest.mark.parametrize("chosen", THEME_NAMES)
async def test_d_goes_through_all_themes_and_comes_back(views, sanctum, seen, chosen):
    app = sanctum(views.view(), settings=Settings(theme=chosen))
    async with app.run_test() as pilot:
        await seen(pilot)
        before = app.export_screenshot()
        there = []
        for _ in THEME_NAMES:
            await pilot.press("d")
            await pilot.pause()
            there.append(app.settings.theme)
            assert app.theme == theme_called(there[-1])
            assert (app.export_screenshot() == before) == (there[-1] == chosen)
        assert there[-1] == chosen
        assert sorted(there) == sorted(THEME_NAMES)


async def test_the_command_palette_offers_the_themes_of_sanctum_only(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press("ctrl+p")
        await pilot.pause()
        assert type(app.screen).__name__ == "CommandPalette"
        assert all(theme.startswith("sanctum-") for theme in app.available_themes)
        await pilot.press("escape")
        await pilot.pause()
        assert isinstance(app.screen, OverviewScreen)


async def test_a_click_moves_the_focus_and_the_wheel_scrolls(views, sanctum, seen):
    app = sanctum(views.view(views.healthy(hosts=128)))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pilot.click("#hosts")
        hosts = app.screen.query_one(HostsPanel)
        assert app.focused is hosts
        hosts.scroll_down(animate=False)
        await pilot.pause()
        assert hosts.scroll_y == 1

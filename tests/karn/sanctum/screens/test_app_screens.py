"""What all screens share: opening them, palette, clipboard and help."""

import asyncio
import re
import threading
import time
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from textual.command import CommandPalette
from textual.screen import Screen

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.poller import Poller
from esper.karn.sanctum.cockpit.screen_map import SCREENS
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.dialogs.help import HelpScreen, records_of, render_signs
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.overview.policy_panel import PolicyPanel
from esper.karn.store.run_files.acknowledgements import Acknowledgement
from esper.karn.text.palette import MONOCHROME
from esper.leyline.records import RECORDS


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_every_screen_says_how_the_run_is_and_keeps_its_place(
    views, sanctum, seen, screen_text, size
):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        for key, (title, _) in SCREENS.items():
            await pilot.press(key)
            await pilot.pause()
            await seen(pilot)
            assert app.current_mode == title
            text = "\n".join(screen_text(app))
            assert "LIVE" in text
            assert "36/36 1×" in text
            for panel in app.screen.query(Panel):
                if panel.display and panel.size:
                    assert app.screen.region.contains_region(panel.region), panel


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (40, 3), (71, 40)])
async def test_no_screen_fails_where_it_does_not_fit(views, sanctum, seen, screen_text, size):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        for key in [*SCREENS, "question_mark", "escape", "t", "a"]:
            await pilot.press(key)
            await pilot.pause()
        assert "Action heads" not in "\n".join(screen_text(app))


async def test_a_screen_shows_the_theme_that_was_chosen_on_another(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", "1", "d", "5")
        await pilot.pause()
        assert app.screen.query_one(EventLogPanel)._drawn_for[1].ground == "#f6f5f1"


async def test_opening_another_run_closes_the_first(views, sanctum, seen, tmp_path):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
        assert app.watch_given.closed == 0
        app.open_run(tmp_path)
        deadline = time.monotonic() + 20
        while not app.watch_given.closed and time.monotonic() < deadline:
            await pilot.pause(0.01)
        assert app.watch_given.closed == 1


async def test_leaving_the_app_closes_the_run(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
    deadline = time.monotonic() + 20
    while not app.watch_given.closed:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_where_nothing_can_be_shown_on_it_is_looked_on_in_peace(views, sanctum, tmp_path):
    observer, seen = sanctum(views.view()).watch_given, threading.Event()

    def complete(view):
        seen.set()
        return view

    poller = Poller(observer, tmp_path, clock=time.time, screen=lambda: None, complete=complete)
    looking = threading.Thread(target=poller.run)
    looking.start()
    assert seen.wait(20)
    poller.end()
    looking.join(20)
    assert not looking.is_alive()
    assert observer.closed == 1


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("1", "Acknowledge the chosen light, or the first"),
        ("1", "Acknowledge all lights"),
        ("2", "Acknowledge the light of the chosen row"),
    ],
)
async def test_the_help_says_which_lights_are_acknowledged(
    views, sanctum, seen, screen_text, key, expected
):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=(120, 60)) as pilot:
        await seen(pilot)
        await pilot.press(key, "question_mark")
        await pilot.pause()
        assert expected in "\n".join(screen_text(app))


@pytest.mark.parametrize("key", list(SCREENS))
async def test_the_key_that_acknowledges_stays_in_sight_while_a_light_waits(
    views, sanctum, seen, screen_text, key
):
    view = views.view(views.broken())
    app = sanctum(view)
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press(key)
        await pilot.pause()
        assert "a Ack  A Ack all" in screen_text(app)[-1]
        seen_by = tuple(
            Acknowledgement("op", light, "somebody", view.now) for light in ("inf", "nan")
        )
        app.shown.append(replace(view, acknowledgements=seen_by))
        await seen(pilot)
        assert "? Help  q Quit" in screen_text(app)[-1]


async def test_a_acknowledges_in_a_separate_file_with_the_name_of_the_user(
    finished_run, screen_text
):
    app = SanctumApp(
        finished_run, finished_run.parent, settings=Settings(reduced_motion=True, closing=False)
    )
    before = (finished_run / "run.sqlite").read_bytes()
    async with app.run_test(size=(120, 40)) as pilot:
        while app.view is None or app.view.is_behind:
            await pilot.pause(0.01)
        await pilot.press("a")
        for _ in range(500):
            if app.view.acknowledgements:
                break
            await pilot.pause(0.01)
        (seen,) = app.view.acknowledgements
        assert (seen.head, seen.light) == ("op", "inf")
        assert "@" in seen.who
        await pilot.pause()
        assert not any("not acknowledged" in line for line in screen_text(app))
        await pilot.press("a")
        assert next(iter(app._notifications)).message.startswith("acknowledged: op Inf")
    assert (finished_run / "run.sqlite").read_bytes() == before


async def test_the_palette_finds_and_does(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        offered = {command.title for command in app.get_system_commands(app.screen)}
        assert {title for title, _ in SCREENS.values()} <= offered
        assert {"Ack", "Ack all", "Lamp test", "Theme: ansi"} <= offered
        assert {"Turn the bell off", "Turn reduced motion off", "Turn ASCII only on"} <= offered
        await pilot.press("ctrl+p")
        assert isinstance(app.screen, CommandPalette)
        await pilot.press(*"theme: contrast")
        await pilot.pause(0.5)
        await pilot.press("enter")
        await pilot.pause(0.2)
        assert app.theme == "sanctum-contrast"


async def test_y_copies_the_focused_panel(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        app.screen.query_one(PolicyPanel).focus()
        await pilot.press("y")
        assert "Score" in app.clipboard
        assert "Blueprint" not in app.clipboard


async def test_help_describes_the_fields_of_the_focused_panel(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        app.screen.query_one(PolicyPanel).focus()
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        area = app.screen.query_one("#help")
        places = []
        for key in ("k", "f", "s"):
            await pilot.press(key)
            await pilot.pause()
            places.append(area.scroll_y)
        assert places == sorted(set(places))


async def test_help_is_wrapped_where_the_terminal_is_narrow(views, sanctum, seen, screen_text):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 450)) as pilot:
        await seen(pilot)
        app.screen.query_one(PolicyPanel).focus()
        await pilot.pause()
        records = records_of(app.focused)
        assert "TELE-206" in {record.id for record in records}
        await pilot.press("question_mark")
        await pilot.pause()
        signs = Console(width=300, file=StringIO(), record=True)
        signs.print(render_signs(MONOCHROME))
        # Where lines are broken is of no concern here, only that nothing is lost.
        inside = re.findall(r"│ {3}(.*?)│", "\n".join(screen_text(app)))
        text = "".join("".join(inside).split())
        assert "".join(signs.export_text().split()) in text
        for record in records:
            assert record.question.replace(" ", "") in text
            assert record.wiring.source.replace(" ", "") in text


@pytest.mark.parametrize(
    ("keys", "title", "places"),
    [
        (["2"], "Fields of Evidence", "k keys   f fields   h heads   s signs"),
        (["2", "tab"], "Fields of History of Op", "k keys   f fields   h heads   s signs"),
        (["6"], "Fields of Runs", "k keys   f fields   h heads   s signs"),
        (["shift+tab"], "Fields of Time", "k keys   f fields   h heads   s signs"),
    ],
)
async def test_help_names_the_panel_and_offers_fields_where_there_are_some(
    views, sanctum, seen, screen_text, keys, title, places
):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=(120, 100)) as pilot:
        await seen(pilot)
        await pilot.press(*keys, "question_mark")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        assert places in text
        assert ("Fields of" in text) == (title is not None)
        assert title is None or title in text
        assert any(
            active.binding.action == "place('fields')" and active.enabled
            for active in app.screen.active_bindings.values()
        ) == (title is not None)


async def test_every_panel_that_can_be_focused_answers_with_a_record(views, sanctum, seen):
    app = sanctum(views.view(views.broken()))
    answered = {}
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        for key in SCREENS:
            await pilot.press(key)
            await pilot.pause()
            focusable = [panel for panel in app.screen.query(Panel) if panel.can_focus]
            answered |= {panel.id: [one.id for one in records_of(panel)] for panel in focusable}
    assert [panel for panel, records in answered.items() if not records] == []
    assert answered["incident"][0] == "TELE-136"
    assert "TELE-506" in answered["decisions"]
    assert answered["log"] == ["TELE-124"]
    assert answered["console"] == ["TELE-125"]
    assert answered["time"] == ["TELE-102"]


async def test_every_record_is_explained_by_some_panel_of_some_screen(views, sanctum, seen):
    app = sanctum(views.view(views.broken()))
    explained = set()
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        for key in SCREENS:
            await pilot.press(key)
            await pilot.pause()
            for panel in app.screen.query(Panel):
                explained |= {record.id for record in records_of(panel)}
    assert explained == {record.id for record in RECORDS}


@pytest.mark.parametrize("keys", [["ctrl+c", "ctrl+c"], ["q", "ctrl+c"]])
async def test_ctrl_c_twice_leaves_training_running(views, sanctum, seen, child, keys):
    app = sanctum(views.view(), child=child)
    async with app.run_test() as pilot:
        await seen(pilot)
        await pilot.press(*keys)
    assert app.return_value == "detach"


async def test_a_click_on_the_key_line_is_like_the_key(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.click("KeyLine", offset=(53, 0))
        await pilot.pause()
        assert app.current_mode == "Runs"


@pytest.mark.parametrize("key", "12345")
async def test_between_its_drawings_a_busy_run_has_nothing_painted(
    views, sanctum, seen, monkeypatch, key
):
    app = sanctum(views.view(views.drilled()))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pilot.press(key)
        await seen(pilot)
        await pilot.pause(0.1)
        monkeypatch.setattr("esper.karn.sanctum.drawing.panel.REST_SECONDS", 1_000.0)
        painted = []
        paint = Screen._compositor_refresh
        monkeypatch.setattr(
            Screen, "_compositor_refresh", lambda screen: (painted.append(screen), paint(screen))
        )
        for step in (12, 13, 14):
            snapshot = views.drilled()
            decisions = [replace(one, step=step, value=0.5) for one in snapshot.decisions]
            hosts = [replace(one, accuracy=0.25, loss=0.125 * step) for one in snapshot.hosts]
            line = replace(snapshot.log[-1], event_id=1_000 + step, text=f"step {step}")
            app.shown.append(
                views.view(
                    replace(
                        snapshot,
                        run=replace(snapshot.run, step=step),
                        decisions=tuple(decisions),
                        hosts=tuple(hosts),
                        log=(*snapshot.log, line),
                    )
                )
            )
            await seen(pilot)
            await pilot.pause(0.05)
        assert painted == []

"""The Log screen looks for what is asked for in the whole run, and in the whole output."""

from dataclasses import replace
from threading import Event

import pytest
from waiting import until

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.fold.log_book import LOG_LINES_KEPT
from esper.karn.sanctum.following import log_search
from esper.karn.sanctum.log import screen as log_screen
from esper.karn.sanctum.log.console_panel import ConsolePanel
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.store.run_store import RunWriter
from esper.leyline.telemetry import Notice, RunFinished


def talk(writer, payloads, updates):
    for update in updates:
        writer.emit(payloads.update(update))
        writer.emit(Notice(level="info", text=f"thought of update {update}"))


@pytest.fixture
def run(tmp_path, payloads):
    """Return the directory of a run with more lines than the log keeps, and much output."""
    with RunWriter(tmp_path) as writer:
        writer.emit(payloads.start())
        writer.emit(Notice(level="warning", text="the needle of the first minute"))
        talk(writer, payloads, range(1, LOG_LINES_KEPT + 101))
        writer.emit(RunFinished(status="finished", update=600, episodes_done=10))
    printed = [f"line {number}" for number in range(1_000)]
    printed[3] = "a needle in the output"
    (tmp_path / "console.log").write_text("\n".join(printed) + "\n")
    return tmp_path


@pytest.fixture
def app(run, monkeypatch):
    """Return the app over that run."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    return SanctumApp(run, run.parent, settings=Settings(reduced_motion=True, closing=False))


async def opened(pilot):
    """Open the Log screen over the whole run."""
    await until(pilot, lambda: pilot.app.view is not None and not pilot.app.view.is_behind)
    await pilot.press("5")
    await until(pilot, lambda: pilot.app.screen.is_complete)
    return pilot.app.screen


def searches(screen):
    return [worker for worker in screen.workers if worker.group == "search"]


def search_status(screen):
    return screen.query_one("#filter").text


async def test_a_text_is_found_in_lines_that_are_no_longer_kept(app):
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        log = screen.query_one(EventLogPanel)
        assert "needle" not in log.text
        assert "a filter searches all" in search_status(screen)
        await pilot.press("slash", *"NEEDLE", "enter")
        await until(pilot, lambda: "1 line in the whole run" in search_status(screen))
        assert log.text.endswith("! the needle of the first minute")
        await pilot.press("x")
        assert "needle" not in log.text
        await until(pilot, lambda: f"{LOG_LINES_KEPT} lines" in search_status(screen))


@pytest.mark.parametrize(
    ("kind", "text", "lines"), [("notice", "thought", 600), (None, "update 17", 11)]
)
async def test_kind_and_text_find_every_line_in_order(app, kind, text, lines):
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        while screen._filter.kind != kind:
            await pilot.press("k")
        await pilot.press("slash", *text, "enter")
        await until(pilot, lambda: f"{lines} lines in the whole run" in search_status(screen))
        shown = screen.query_one(EventLogPanel).text.splitlines()
        assert len(shown) == lines
        updates = [int(line.rpartition(" ")[2]) for line in shown]
        assert updates == sorted(updates)


async def test_with_shift_the_kinds_are_gone_through_backwards(app):
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        forwards = [screen._filter]
        while len(forwards) < 2 or forwards[-1].is_set:
            await pilot.press("k")
            forwards.append(screen._filter)
        backwards = [screen._filter]
        while len(backwards) < len(forwards):
            await pilot.press("K")
            backwards.append(screen._filter)
        assert backwards == forwards[::-1]
        assert len(forwards) > 2


async def test_what_is_in_sight_stays_there_while_older_lines_are_found(app):
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        log = screen.query_one(EventLogPanel)
        await pilot.press("slash", *"thought", "enter")
        await until(pilot, lambda: "600 lines in the whole run" in search_status(screen))
        await pilot.press("home")
        await pilot.pause()
        first = log.text.splitlines()[int(log.scroll_y)]
        found, log._found = log._found, ()
        log.redraw()
        log.scroll_to(y=40, animate=False)
        await pilot.pause()
        first = log.text.splitlines()[int(log.scroll_y)]
        log.find(found)
        await pilot.pause()
        assert len(log.text.splitlines()) == 600
        assert log.text.splitlines()[int(log.scroll_y)] == first


async def test_a_search_goes_back_from_the_moment_that_is_shown(app):
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        app.action_jump(550)
        await until(pilot, lambda: app.view.position is not None)
        await pilot.press("slash", *"thought", "enter")
        await until(pilot, lambda: "550 lines in the whole run" in search_status(screen))
        app.action_jump(3)
        await until(pilot, lambda: "3 lines in the whole run" in search_status(screen))
        await pilot.press("n")
        await until(pilot, lambda: "600 lines in the whole run" in search_status(screen))


async def test_a_search_stops_with_its_screen_and_continues_when_it_is_back(app, monkeypatch):
    monkeypatch.setattr("esper.karn.sanctum.following.log_search.EVENTS_PER_STEP", 2)
    monkeypatch.setattr(log_screen, "_REPORT_SECONDS", 0.0)
    may_go_on, steps = Event(), []

    def step(search):
        if search._filter.text == "needle":
            steps.append(search)
            if len(steps) > 3:
                assert may_go_on.wait(20)
        return whole_step(search)

    whole_step = log_search.LogSearch.step
    monkeypatch.setattr(log_search.LogSearch, "step", step)
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("slash", *"needle", "enter")
        await until(pilot, lambda: "searching … back to update" in search_status(screen))
        await pilot.press("1")
        await until(pilot, lambda: not screen._is_searching)
        may_go_on.set()
        await until(pilot, lambda: not any(worker.is_running for worker in searches(screen)))
        assert len(steps) == 4
        assert not screen._result.is_over
        await pilot.press("5")
        await until(pilot, lambda: "1 line in the whole run" in search_status(screen))


async def test_a_search_follows_a_run_that_goes_on(app, run, payloads):
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("slash", *"thought", "enter")
        await until(pilot, lambda: "600 lines in the whole run" in search_status(screen))
        with RunWriter(run) as writer:
            talk(writer, payloads, range(601, 701))
        await until(pilot, lambda: "700 lines in the whole run" in search_status(screen))
        assert len(screen.query_one(EventLogPanel).text.splitlines()) == 700


async def test_the_whole_output_is_searched(app, run):
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        await pilot.press("o")
        console = screen.query_one(ConsolePanel)
        await until(pilot, lambda: "the last 200 lines" in search_status(screen))
        assert "needle" not in console.text
        await pilot.press("slash", *"Needle", "enter")
        await until(pilot, lambda: "1 line in the whole output" in search_status(screen))
        assert console.text == "a needle in the output"
        with (run / "console.log").open("a") as output:
            output.write("needle 2\n")
        await until(pilot, lambda: "2 lines in the whole output" in search_status(screen))
        await pilot.press("slash", *"zzz", "enter")
        await until(pilot, lambda: "0 lines in the whole output" in search_status(screen))
        assert console.text == "no line of the output has this text"
        await pilot.press("k", "escape")
        await until(pilot, lambda: "the last 200 lines" in search_status(screen))
        assert console.text.startswith("line 8")
        await pilot.press("o")  # the log was not filtered by any of this
        await until(pilot, lambda: "kind all  host all" in search_status(screen))
        assert not screen._filter.is_set


async def test_a_store_that_is_gone_ends_the_search_with_a_sentence(
    views, sanctum, seen, payloads, run, tmp_path
):
    app = sanctum(views.waiting())
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        whole = SanctumApp(run, run.parent)._poller.observer(0.0)
        app.shown.append(replace(whole, directory=tmp_path / "nowhere"))
        await pilot.press("5")
        await seen(pilot)
        await pilot.press("slash", *"needle", "enter")
        screen = app.screen
        await until(
            pilot, lambda: "the search stopped: there is no run store" in search_status(screen)
        )

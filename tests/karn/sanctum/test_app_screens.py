"""The screens and what they share: opening them, log, runs, palette, clipboard and help."""

import asyncio
import re
import shutil
import threading
import time
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from textual.command import CommandPalette
from textual.screen import Screen
from textual.widgets import Input

from esper.karn.reports.run_catalogue import list_runs
from esper.karn.reports.run_comparison import compare_runs
from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.poller import Poller
from esper.karn.sanctum.cockpit.screen_map import SCREENS
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.dialogs.help import HelpScreen, records_of, render_signs
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.fold.log_book import LOG_LINES_KEPT, LogBook
from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.following.log_filter import LogFilter, choices
from esper.karn.sanctum.frame.run_screen import RunsUpdated
from esper.karn.sanctum.log.console_panel import ConsolePanel
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.log.screen import LogScreen
from esper.karn.sanctum.overview.policy_panel import PolicyPanel
from esper.karn.sanctum.runs.comparison_panel import ComparisonPanel
from esper.karn.sanctum.runs.run_lines import OPEN
from esper.karn.sanctum.runs.runs_panel import RunsPanel
from esper.karn.sanctum.runs.screen import RunsScreen
from esper.karn.sanctum.schema import LogEntry, RunState
from esper.karn.store.acknowledgements import Acknowledgement
from esper.karn.store.run_directory import create_run
from esper.karn.store.run_store import RunWriter
from esper.karn.text.palette import MONOCHROME
from esper.leyline.records import RECORDS

LOG = (
    LogEntry(1, 1.0, "info", "host 1 grew", kind="seed_stage_changed", host=0),
    LogEntry(2, 2.0, "info", "host 2 grew", kind="seed_stage_changed", host=1),
    LogEntry(3, 3.0, "latch", "op went Inf", kind="ppo_update", head="op"),
    LogEntry(4, 4.0, "info", "[done]", kind="run_finished"),
)


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


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ([], [1, 2, 3, 4]),
        (["k"], [3]),
        (["k", "k"], [4]),
        (["k", "k", "k"], [1, 2]),
        (["k"] * 4, [1, 2, 3, 4]),
        (["h"], [1]),
        (["h", "h"], [2]),
        (["e"], [3]),
        (["e", "x"], [1, 2, 3, 4]),
        (["slash", *"GREW", "enter"], [1, 2]),
        (["slash", *"grew", "enter", "h"], [1]),
        (["slash", *"grew", "escape"], [1, 2, 3, 4]),
        (["slash", *"q5", "backspace", "backspace", "enter"], [1, 2, 3, 4]),
        (["e", "h"], []),
    ],
)
async def test_the_log_is_filtered(views, sanctum, seen, keys, shown):
    app = sanctum(views.view(replace(views.healthy(), log=LOG)))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", *keys)
        await pilot.pause()
        assert isinstance(app.screen, LogScreen)
        text = app.screen.query_one(EventLogPanel).text
        assert [entry.event_id for entry in LOG if entry.text in text] == shown
        assert (text == "no line matches the filter") == (not shown)


async def test_the_filter_says_what_it_shows(views, sanctum, seen, screen_text):
    app = sanctum(views.view(replace(views.healthy(), log=LOG)))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", "h", "slash", *"[b", "enter")
        await pilot.pause()
        assert any(
            "host 1  head all  text '[b'  0 lines in the whole run" in line
            for line in screen_text(app)
        )


@pytest.mark.parametrize(("more", "is_said"), [(-1, False), (0, True), (7, True)])
async def test_the_log_says_that_it_keeps_the_last_lines_of_a_kind(
    views, sanctum, seen, screen_text, more, is_said
):
    book = LogBook()
    for entry in LOG[2:]:
        book.add(entry)
    for number in range(LOG_LINES_KEPT + more):
        book.add(LogEntry(10 + number, 5.0, "info", "host 1 grew", kind="seed_transitioned"))
    app = sanctum(views.view(replace(views.healthy(), log=book.entries())))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        lines = min(LOG_LINES_KEPT, LOG_LINES_KEPT + more) + 2
        assert f"{lines} lines" in text
        assert (f"the last {lines} lines; a filter searches all" in text) == is_said


async def test_what_is_typed_is_no_key(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", "slash", "1", "d", "question_mark")
        assert app.screen.query_one(Input).value == "1d?"
        assert isinstance(app.screen, LogScreen)


async def test_seeds_do_not_carry_off_the_other_lines_of_the_overview(views, sanctum, seen):
    seeds = tuple(
        LogEntry(10 + n, 2.0, "info", f"host {n} grew", kind="seed_transitioned", host=n)
        for n in range(100)
    )
    told = LogEntry(1, 1.0, "warning", "update 1 skipped bad minibatches", kind="ppo_update")
    app = sanctum(views.view(replace(views.healthy(), log=(told, *seeds))))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        assert "skipped bad minibatches" in app.screen.query_one(EventLogPanel).text
        assert "grew" not in app.screen.query_one(EventLogPanel).text
        await pilot.press("5")
        await pilot.pause()
        assert "host 99 grew" in app.screen.query_one(EventLogPanel).text


async def test_the_log_follows_or_stands_still(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", "f")
        panel = app.screen.query_one(EventLogPanel)
        assert not panel.follows
        assert "paused" in str(panel.border_title)
        await pilot.press("f")
        assert panel.follows


async def test_a_run_that_is_left_is_let_go_of(views, sanctum, seen, tmp_path):
    app = sanctum(views.view())
    async with app.run_test() as pilot:
        await seen(pilot)
        assert app.watch_given.closed == 0
        app.open_run(tmp_path)
        deadline = time.monotonic() + 20
        while not app.watch_given.closed and time.monotonic() < deadline:
            await pilot.pause(0.01)
        assert app.watch_given.closed == 1


async def test_whoever_leaves_lets_go_of_the_run(views, sanctum, seen):
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


async def test_a_comparison_that_takes_long_is_shown_though_its_runs_go_on(
    three_runs, open_runs, monkeypatch
):
    asked, answer = [], threading.Event()

    def slowly(*directories):
        asked.append(directories)
        answer.wait(20)
        return compare_runs(*directories)

    monkeypatch.setattr("esper.karn.sanctum.runs.screen.compare_runs", slowly)
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.press("space", "down", "c")
        for update in (5, 6, 7):
            runs = [replace(run, update=update) for run in list_runs(three_runs)]
            app.screen.on_runs_updated(RunsUpdated(runs))
        answer.set()
        panel = app.screen.query_one(ComparisonPanel)
        await app.until(pilot, lambda: "Inf seen in" in panel.text)
        await app.until(pilot, lambda: len(asked) >= 2)
        assert len(asked) <= 3, "once at first, once for what came meanwhile, and as it stands"


async def test_a_log_that_grows_is_followed_to_its_end(views, sanctum, seen):
    def view_of(lines):
        log = tuple(LogEntry(n, 1.0, "info", f"line {n}", kind="notice") for n in range(lines))
        return views.view(replace(views.healthy(), log=log))

    app = sanctum(view_of(40))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5")
        await pilot.pause()
        panel = app.screen.query_one(EventLogPanel)
        for lines in (41, 60, 200, 30, 5, 90):
            app.shown.append(view_of(lines))
            await seen(pilot)
            assert panel.virtual_size.height == lines
            assert panel.max_scroll_y == panel.scroll_y == max(0, lines - panel.size.height)
            assert panel.vertical_scrollbar.display == (lines > panel.size.height)
            assert panel.vertical_scrollbar.window_virtual_size == lines


async def test_the_console_output_takes_the_place_of_the_log(views, sanctum, seen, screen_text):
    console = ("loading torch", "\tTraceback", "x" * 300 + " the end", "again and " * 15 + "again")
    app = sanctum(views.view(console=console))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", "o")
        await pilot.pause()
        assert isinstance(app.focused, ConsolePanel)
        text = "\n".join(screen_text(app))
        assert "loading torch" in text
        assert "        Traceback" in text
        assert "x the end" in text, "a long line goes on below"
        # Words are not torn apart, and no blank is left over.
        rows = app.focused.text.splitlines()[-3:]
        assert " ".join(rows).endswith(console[-1])
        assert all(row == row.strip() and 0 < len(row) < 80 for row in rows)
        assert "of now" not in text
        await pilot.press("o")
        await pilot.pause()
        assert "loading torch" not in "\n".join(screen_text(app))


async def test_in_the_past_the_console_output_is_said_to_be_of_now(
    views, sanctum, seen, screen_text
):
    app = sanctum(views.view(console=("loading torch",), position=TimePosition(3, 9)))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", "o")
        await pilot.pause()
        assert "as of now, not of the moment shown" in "\n".join(screen_text(app))


def test_a_filter_for_what_is_no_longer_there_starts_anew():
    assert LogFilter(kind="gone").with_next("kind", choices("kind", LOG, RunState())).kind is None
    assert LogFilter().with_next("kind", ()).kind is None


@pytest.fixture
def three_runs(tmp_path, payloads):
    """Return a folder of three runs, in one of which `op` went Inf."""
    run_dir = tmp_path / "runs"
    for name in ("amber", "birch", "cedar"):
        with RunWriter(create_run(run_dir, name)) as writer:
            writer.emit(payloads.start(name=name))
            writer.emit(payloads.update(1))
            if name == "birch":
                writer.emit(payloads.broken_update(2, "op", "+inf"))
            writer.emit(payloads.finish(update=2, episodes_done=4))
    return run_dir


@pytest.fixture
def open_runs(monkeypatch):
    """Return a function that opens a folder of runs in the real app."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    async def until(pilot, condition):
        for _ in range(1000):
            if condition():
                await pilot.pause()
                return
            await pilot.pause(0.01)
        pytest.fail("it never came to that")

    def make(run_dir):
        app = SanctumApp(None, run_dir, settings=Settings(reduced_motion=True, closing=False))
        app.until = until
        return app

    return make


async def test_all_runs_are_listed_and_one_can_be_opened(three_runs, open_runs, screen_text):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        lines = screen_text(app)
        (birch,) = [line for line in lines if "-birch" in line]
        assert "● Inf op" in birch
        (amber,) = [line for line in lines if "-amber" in line]
        assert "○" in amber
        assert lines.index(birch) < lines.index(amber)  # the newest first
        await pilot.press("down", "enter")
        await app.until(pilot, lambda: app.view and app.view.snapshot.run.name == "birch")
        assert app.current_mode == "Overview"


async def test_a_double_click_opens_a_run(three_runs, open_runs):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.double_click(RunsPanel, offset=(8, 1))  # the heading
        await pilot.click(RunsPanel, offset=(8, 3))
        assert app.current_mode == "Runs"
        await pilot.double_click(RunsPanel, offset=(8, 3))
        await app.until(pilot, lambda: app.view and app.view.snapshot.run.name == "birch")
        assert app.current_mode == "Overview"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_lights_and_what_is_wrong_are_seen_before_the_rest(
    tmp_path, payloads, open_runs, screen_text, size
):
    run_dir = tmp_path / "a-folder-with-a-long-name" / "runs"
    with RunWriter(create_run(run_dir, "amber")) as writer:
        writer.emit(payloads.start(name="amber"))
        for kind in ("+inf", "nan"):
            writer.emit(payloads.broken_update(2, "op", kind))
    (create_run(run_dir, "birch") / "run.sqlite").write_text("no database at all" * 100)
    app = open_runs(run_dir)
    async with app.run_test(size=size) as pilot:
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.query_one(RunsPanel).text.count("\n") == 2)
        text = "\n".join(screen_text(app))
        assert "● Inf op  ● NaN op" in text
        assert "UNREADABLE " in text
        assert "! run.sqlite is not" in text


async def test_two_runs_are_compared_side_by_side(three_runs, open_runs, screen_text):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.press("c")
        assert "it takes two runs or more to compare" in next(iter(app._notifications)).message
        await pilot.press("space", "down", "space", "space", "space", "c")
        assert len(app.screen.query_one(RunsPanel).marked) == 2
        panel = app.screen.query_one(ComparisonPanel)
        await app.until(pilot, lambda: "Inf seen in" in panel.text)
        (line,) = [line for line in panel.text.splitlines() if line.startswith("Inf seen in")]
        assert line.split()[-2:] == ["–", "op"]
        await pilot.press("escape")
        assert isinstance(app.focused, RunsPanel)
        assert isinstance(app.screen, RunsScreen)


async def test_a_comparison_goes_on_with_its_runs(three_runs, open_runs, payloads):
    app = open_runs(three_runs)
    (birch,) = three_runs.glob("*birch")
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.press("space", "down", "c")
        panel = app.screen.query_one(ComparisonPanel)

        def updates():
            lines = [line for line in panel.text.splitlines() if line.startswith("updates")]
            return lines and lines[0].split()[1:3]

        await app.until(pilot, lambda: updates() == ["1", "2"])
        with RunWriter(birch) as writer:
            writer.emit(payloads.start(name="birch", resumed_from_update=2))
            writer.emit(payloads.update(3), durable=True)
            await app.until(pilot, lambda: updates() == ["1", "3"])


async def test_without_runs_that_is_said(tmp_path, open_runs, screen_text):
    app = open_runs(tmp_path / "none")
    async with app.run_test(size=(80, 24)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        assert any("no runs yet" in line for line in screen_text(app))
        await pilot.press("enter", "space", "c")
        assert isinstance(app.screen, RunsScreen)


async def test_a_folder_of_runs_that_is_gone_is_no_folder_without_runs(
    three_runs, open_runs, screen_text
):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        shutil.rmtree(three_runs)
        await app.until(pilot, lambda: "is gone" in "\n".join(screen_text(app)))
        text = "\n".join(screen_text(app))
        assert f"! the folder {three_runs} is gone" in " ".join(text.split())
        assert "no runs to show" in text
        assert "no runs yet" not in text


async def test_the_run_that_is_open_is_marked_in_the_list(three_runs, open_runs, screen_text):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        (line,) = [line for line in screen_text(app) if OPEN in line]
        assert app.view.directory.name in line
        assert any("enter opens" in line for line in screen_text(app))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("1", "Acknowledge the chosen light, or the first"),
        ("1", "Acknowledge all lights"),
        ("2", "Acknowledge the light of the chosen row"),
    ],
)
async def test_the_help_says_which_lights_are_acknowledged(
    views, sanctum, seen, screen_text, key, said
):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=(120, 60)) as pilot:
        await seen(pilot)
        await pilot.press(key, "question_mark")
        await pilot.pause()
        assert said in "\n".join(screen_text(app))


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


async def test_a_acknowledges_beside_the_store_and_names_who(finished_run, screen_text):
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


async def test_help_tells_of_the_fields_of_the_focused_panel(views, sanctum, seen):
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
async def test_whoever_presses_ctrl_c_twice_leaves_training_running(
    views, sanctum, seen, child, keys
):
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

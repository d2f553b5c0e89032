"""The Log screen: filter, following and console output."""

from dataclasses import replace

import pytest
from textual.widgets import Input

from esper.karn.sanctum.fold.log_book import LOG_LINES_KEPT, LogBook
from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.following.log_filter import LogFilter, choices
from esper.karn.sanctum.log.console_panel import ConsolePanel
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.log.filter_line import render_filter
from esper.karn.sanctum.log.screen import LogScreen
from esper.karn.sanctum.schema import LogEntry, RunState
from esper.karn.text.palette import DARK

LOG = (
    LogEntry(1, 1.0, "info", "host 1 grew", kind="seed_stage_changed", host=0),
    LogEntry(2, 2.0, "info", "host 2 grew", kind="seed_stage_changed", host=1),
    LogEntry(3, 3.0, "latch", "op went Inf", kind="ppo_update", head="op"),
    LogEntry(4, 4.0, "info", "[done]", kind="run_finished"),
)


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
        (line,) = (line for line in screen_text(app) if "text '[b'" in line)
        assert "host 1  head all  " in line
        assert "text '[b'  0 lines in the whole run" in line


def test_a_narrow_filter_line_leaves_out_fields_without_a_value():
    chosen = LogFilter(head="op")
    assert render_filter(chosen, LOG, None, 80, DARK).plain.startswith("kind all  host all")
    narrow = render_filter(chosen, LOG, None, 45, DARK).plain
    assert narrow == "kind all  head op  1 line in the whole run"


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
    entry = LogEntry(1, 1.0, "warning", "update 1 skipped bad minibatches", kind="ppo_update")
    app = sanctum(views.view(replace(views.healthy(), log=(entry, *seeds))))
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
        assert "x the end" in text, "a long line continues below"
        # Words are not torn apart, and no blank is left over.
        rows = app.focused.text.splitlines()[-3:]
        assert " ".join(rows).endswith(console[-1])
        assert all(row == row.strip() and 0 < len(row) < 80 for row in rows)
        assert "of now" not in text
        await pilot.press("o")
        await pilot.pause()
        assert "loading torch" not in "\n".join(screen_text(app))


async def test_in_the_past_the_console_output_is_marked_as_current(
    views, sanctum, seen, screen_text
):
    app = sanctum(views.view(console=("loading torch",), position=TimePosition(3, 9)))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5", "o")
        await pilot.pause()
        assert "as of now, not of the past" in "\n".join(screen_text(app))


def test_a_filter_for_a_value_that_is_gone_is_reset():
    assert LogFilter(kind="gone").with_next("kind", choices("kind", LOG, RunState())).kind is None
    assert LogFilter().with_next("kind", ()).kind is None

"""The event log."""

from dataclasses import replace
from datetime import datetime

import pytest

from esper.karn.sanctum.log.event_log_panel import EventLogPanel, render_log
from esper.karn.sanctum.schema import LogEntry, SanctumSnapshot
from esper.karn.text.palette import DARK

NOW = datetime(2025, 11, 15, 7, 30).timestamp()


def _style_of(text, words):
    place = text.plain.index(words)
    return [str(span.style) for span in text.spans if span.start <= place < span.end][-1]


@pytest.mark.parametrize(
    ("level", "sign", "style"),
    [
        ("info", " ", DARK.ink),
        ("warning", "!", DARK.warning),
        ("error", "✗", DARK.critical),
        ("latch", "●", f"bold {DARK.critical}"),
    ],
)
def test_levels_differ_in_sign_and_in_colour(level, sign, style):
    entry = LogEntry(1, 1_763_838_000.0, level, "something happened")
    text = render_log(SanctumSnapshot(log=(entry,)), 80, NOW)
    assert f"{sign} something happened" in text.plain
    assert _style_of(text, "something") == style


def test_a_long_entry_is_wrapped_with_all_its_words():
    words = [f"word{number}" for number in range(30)]
    entry = LogEntry(1, 0.0, "latch", " ".join(words))
    text = render_log(SanctumSnapshot(log=(entry,)), 40, NOW)
    assert max(line.cell_len for line in text.split("\n")) <= 40
    assert [word for word in text.plain.split() if word.startswith("word")] == words
    assert _style_of(text, "word29") == f"bold {DARK.critical}"


def test_an_entry_of_several_lines_cannot_look_like_several_entries():
    entry = LogEntry(1, 0.0, "info", "first\nsecond")
    assert "first second" in render_log(SanctumSnapshot(log=(entry,)), 80, NOW).plain


def test_an_empty_log_says_so():
    assert render_log(SanctumSnapshot(), 40, NOW).plain == "no events yet"


@pytest.mark.parametrize(
    ("moment", "width", "clock"),
    [
        (datetime(2025, 11, 15, 7, 29, 59), 80, "07:29:59"),
        (datetime(2025, 11, 15, 0, 0, 0), 40, "00:00"),
        (datetime(2025, 11, 14, 21, 7, 46), 80, "11-14 21:07:46"),
        (datetime(2025, 11, 14, 21, 7, 46), 40, "11-14 21:07"),
    ],
)
def test_a_line_of_another_day_has_its_date(moment, width, clock):
    entry = LogEntry(1, moment.timestamp(), "info", "something happened")
    text = render_log(SanctumSnapshot(log=(entry,)), width, NOW).plain
    assert text == f"{clock}   something happened"


async def test_past_midnight_the_lines_get_their_date(views, sanctum, seen, screen_text):
    view = views.view()
    day = datetime.fromtimestamp(view.snapshot.log[-1].time).strftime("%m-%d ")
    app = sanctum(view)
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        assert not any(day in line for line in screen_text(app))
        app.shown.append(replace(view, now=view.now + 86_400))
        await seen(pilot)
        assert any(day in line for line in screen_text(app))


async def test_it_follows_until_it_is_scrolled_away_and_again_from_its_end(
    views, sanctum, seen, screen_text
):
    snapshot = views.healthy()
    app = sanctum(views.view(snapshot))

    def add(text):
        nonlocal snapshot
        entry = LogEntry(2000, snapshot.log[-1].time, "info", text)
        snapshot = replace(snapshot, log=(*snapshot.log, entry))
        app.shown.append(views.view(snapshot))

    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        add("an event that is followed")
        await seen(pilot)
        assert any("an event that is followed" in line for line in screen_text(app))

        await pilot.press("l", "home")
        await pilot.pause()
        log = app.screen.query_one(EventLogPanel)
        assert "paused" in str(log.border_title)
        add("an event out of sight")
        await seen(pilot)
        assert log.scroll_y == 0
        assert not any("an event out of sight" in line for line in screen_text(app))

        await pilot.press("end")
        await pilot.pause(0.05)
        assert log.border_title == "Log"
        assert any("an event out of sight" in line for line in screen_text(app))


async def test_the_details_of_a_bad_update_are_shown_on_demand_and_to_a_filter(
    views, sanctum, seen
):
    log = (
        LogEntry(1, 1.0, "latch", "op went Inf", kind="ppo_update", head="op"),
        LogEntry(1, 1.0, "warning", "one was skipped", kind="ppo_update", lead=1),
        LogEntry(2, 1.0, "info", "it was kept", kind="incident_recorded", lead=1),
        LogEntry(3, 1.0, "info", "done", kind="notice"),
    )
    app = sanctum(views.view(SanctumSnapshot(log=log)))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("5")
        await pilot.pause()
        panel = app.screen.query_one(EventLogPanel)
        short = [line.partition(":01 ")[2] for line in panel.text.splitlines()]
        assert short == ["● op went Inf (+2 more: v)", "  done"]
        await pilot.press("v")
        assert panel.text.count("\n") == 3
        assert "more: v" not in panel.text
        await pilot.press("v", "k")
        await pilot.pause()
        assert "it was kept" in panel.text, "what is asked for is shown"

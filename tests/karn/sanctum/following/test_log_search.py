"""Searching the store for lines that the log no longer keeps, against a log that keeps all."""

import shutil
import sqlite3
from collections import deque
from contextlib import closing
from dataclasses import fields

import pytest

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.fold.log_book import LOG_LINES_KEPT, LogBook, oldest_missing
from esper.karn.sanctum.following import log_search
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.log_filter import FILTER_FIELDS, LogFilter, choices, with_older
from esper.karn.sanctum.following.log_search import LogSearch
from esper.karn.sanctum.log.event_log_panel import EventLogPanel
from esper.karn.sanctum.log.screen import LogScreen
from esper.karn.sanctum.schema import LogEntry, RunState
from esper.karn.store.run_store import RunWriter
from esper.leyline.heads import Stage
from esper.leyline.telemetry import CheckpointWritten, Notice, SeedTransitioned, UnknownPayload

UPDATES = 60
FILTERS = (
    LogFilter(text="update 3 "),
    LogFilter(text="WHISPERED"),
    LogFilter(text="no such line"),
    LogFilter(kind="checkpoint_written"),
    LogFilter(kind="run_started"),
    LogFilter(kind="seed_transitioned", text="conv"),
    LogFilter(kind="weather"),
    LogFilter(kind="notice", host=1),
    LogFilter(host=1),
    LogFilter(host=2, text="pruned"),
    LogFilter(head="op"),
    LogFilter(text="op went"),
)


def write_update(writer, payloads, update):
    """Write an update and the other events of its batch."""
    for number in range(24):
        stage = (Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.PRUNED)[number % 4]
        writer.emit(payloads.step(number + 1, update=update))
        writer.emit(
            SeedTransitioned(
                update=update,
                step=number + 1,
                episode=update,
                host=number % 3,
                slot=number % 2,
                blueprint=(number + update) % 8,
                from_stage=0,
                to_stage=int(stage),
                cause="asked for",
            )
        )
    for number in range(10):
        noted = "whispered" if (update, number) == (5, 0) else "noted"
        writer.emit(Notice(level="info", text=f"{noted} {number} in update {update} "))
    writer.emit(UnknownPayload(kind="weather", data=b""))
    if update in (4, 50):
        writer.emit(payloads.broken_update(update, "op", "+inf", minibatches_skipped=3))
    else:
        writer.emit(payloads.update(update))
    writer.emit(CheckpointWritten(update=update, path=f"checkpoints/{update}", size=1))


@pytest.fixture(scope="module")
def long_run(tmp_path_factory, payloads):
    """Return the directory of a run with far more lines than the log keeps, to be read only."""
    directory = tmp_path_factory.mktemp("long")
    with RunWriter(directory) as writer:
        writer.emit(payloads.start(slots=["early", "late"], environments=3))
        for update in range(1, UPDATES + 1):
            write_update(writer, payloads, update)
            if update == 30:  # another process resumes, with other names of slots
                writer.emit(
                    payloads.start(
                        slots=["first", "second"], environments=3, resumed_from_update=30
                    )
                )
    return directory


@pytest.fixture
def run(long_run, tmp_path):
    """Return a copy of the long run, which may be written to."""
    return shutil.copytree(long_run, tmp_path / "run")


def snapshot_of(directory):
    return RunFollower(directory).catch_up().snapshot


@pytest.fixture(scope="module")
def kept_lines(long_run):
    """Lines that the log of the long run keeps."""
    return snapshot_of(long_run).log


@pytest.fixture(scope="module")
def all_lines(long_run):
    """Lines that a log of the long run would have if it kept everything."""
    return whole_log(long_run)


def whole_log(directory):
    """Return the log as it would be if it kept everything."""
    make = LogBook.__init__

    def make_endless(self):
        make(self)
        self._shelves = {shelf: deque() for shelf in self._shelves}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogBook, "__init__", make_endless)
        patch.setattr("esper.karn.sanctum.following.store_follower.first_that_counts", lambda *_: 1)
        return snapshot_of(directory).log


def searched(search, log):
    """Return the result of a search when it is over."""
    search.go_on(log)
    for _ in range(10_000):
        result = search.step()
        if result.is_over:
            return result
    return pytest.fail("the search did not end")


@pytest.mark.parametrize("events_per_step", [3, 128, 400])
@pytest.mark.parametrize("log_filter", FILTERS, ids=str)
def test_a_search_finds_what_a_log_that_keeps_all_has(
    long_run, kept_lines, all_lines, monkeypatch, log_filter, events_per_step
):
    monkeypatch.setattr(log_search, "EVENTS_PER_STEP", events_per_step)
    assert len(kept_lines) < len(all_lines)

    result = searched(LogSearch(long_run, log_filter), kept_lines)

    assert result.is_whole
    assert result.error is None
    shown = [line for line in with_older(kept_lines, result.lines) if log_filter.matches(line)]
    assert shown == [line for line in all_lines if log_filter.matches(line)]


def test_a_search_says_how_far_back_it_is(long_run, kept_lines):
    search = LogSearch(long_run, LogFilter(text="noted"))
    search.go_on(kept_lines)
    reached = [search.step().reached for _ in range(3)]
    updates = [int(noted.removeprefix("back to update ")) for noted in reached]
    assert updates == sorted(updates, reverse=True)
    assert 1 < updates[-1] < updates[0] < UPDATES


def test_a_search_ends_when_it_found_as_much_as_is_kept(long_run, kept_lines, monkeypatch):
    monkeypatch.setattr(log_search, "LINES_FOUND", 20)
    result = searched(LogSearch(long_run, LogFilter(text="noted")), kept_lines)
    assert len(result.lines) == 20
    assert not result.is_whole
    newest = oldest_missing(kept_lines)
    assert all(newest - 200 < line.event_id <= newest for line in result.lines)


def test_a_search_goes_on_over_what_a_live_run_pushes_out(run, kept_lines, monkeypatch, payloads):
    monkeypatch.setattr(log_search, "EVENTS_PER_STEP", 50)
    searches = {log_filter: LogSearch(run, log_filter) for log_filter in FILTERS}
    for search in searches.values():
        searched(search, kept_lines)
    with RunWriter(run) as writer:
        for update in range(UPDATES + 1, UPDATES + 20):
            write_update(writer, payloads, update)
    log, expected = snapshot_of(run).log, whole_log(run)

    for log_filter, search in searches.items():
        result = searched(search, log)

        shown = [line for line in with_older(log, result.lines) if log_filter.matches(line)]
        assert shown == [line for line in expected if log_filter.matches(line)], log_filter


def test_an_earlier_moment_is_searched_where_the_search_had_ended_before_it(run, monkeypatch):
    monkeypatch.setattr(log_search, "LINES_FOUND", 20)
    follower = RunFollower(run)
    search = LogSearch(run, LogFilter(text="noted"))
    searched(search, follower.catch_up().snapshot.log)
    earlier = follower.state_after(55).log
    lines = searched(search, earlier).lines
    assert len(lines) == 20
    assert lines[-1].event_id <= oldest_missing(earlier)


def test_a_store_that_cannot_be_read_ends_the_search_with_a_sentence(run):
    log = snapshot_of(run).log
    (run / "run.sqlite").write_bytes(b"no database at all" * 100)
    result = searched(LogSearch(run, LogFilter(text="noted")), log)
    assert "is not a run store" in result.error
    assert "\n" not in result.error


def test_an_event_that_is_damaged_is_found_as_such(tmp_path, payloads):
    with RunWriter(tmp_path) as writer:
        writer.emit(payloads.start())
        for number in range(LOG_LINES_KEPT + 10):
            writer.emit(Notice(level="info", text=f"noted {number}"))
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as store:
        store.execute("UPDATE events SET payload = x'c1' WHERE id = 3")
        store.commit()
    result = searched(LogSearch(tmp_path, LogFilter(text="damaged")), snapshot_of(tmp_path).log)
    (line,) = result.lines
    assert (line.event_id, line.level) == (3, "error")


def test_what_can_be_missing_of_a_log():
    line = LogEntry(1, 0.0, "info", "noted", kind="notice")
    latch = LogEntry(1, 0.0, "latch", "op went", kind="ppo_update")
    seed = LogEntry(7, 0.0, "info", "grew", kind="seed_transitioned")
    assert oldest_missing(()) == 0
    assert oldest_missing([line] * (LOG_LINES_KEPT - 1)) == 0
    assert oldest_missing([latch] * LOG_LINES_KEPT) == 0  # there are no more
    assert oldest_missing([line] * LOG_LINES_KEPT) == 1
    assert oldest_missing([*[line] * LOG_LINES_KEPT, *[seed] * LOG_LINES_KEPT]) == 7


def test_what_can_be_asked_for_is_not_only_what_is_kept():
    log = [LogEntry(1, 0.0, "info", "noted", kind="notice", host=1)]
    run = RunState(environments=3)
    assert choices("kind", log, run) == ["notice"]
    assert choices("host", log, run) == [1]
    full = log * LOG_LINES_KEPT
    assert "run_started" in choices("kind", full, run)
    assert "step_completed" not in choices("kind", full, run)
    assert choices("host", full, run) == [0, 1, 2]
    assert choices("head", full, run) == []


def test_every_field_of_the_filter_is_in_the_table():
    names = [field.name for field in FILTER_FIELDS]
    assert {*names, "text"} == {field.name for field in fields(LogFilter)}
    assert set(names) <= {field.name for field in fields(LogEntry)}
    keys = [field.key for field in FILTER_FIELDS]
    bindings = [*LogScreen.BINDINGS, *EventLogPanel.BINDINGS, *SanctumApp.BINDINGS]
    others = {binding.key for binding in bindings if not binding.action.startswith("next(")}
    assert len(set(keys)) == len(keys)
    assert not others & {*keys, *map(str.upper, keys)}

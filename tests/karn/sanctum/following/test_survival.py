"""Whatever becomes of a run, a cockpit over it shows one clear sentence and never a traceback."""

import io
import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from esper.commands.folder.runs import print_runs
from esper.commands.health import print_health
from esper.karn.reports.run_catalogue import RunCatalogue
from esper.karn.sanctum.cockpit.capture import render_once
from esper.karn.sanctum.cockpit.observer import RunObserver, read_view
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import UNKNOWN, UNLIT
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunStoreError, RunWriter, create_run
from esper.leyline.heads import Stage
from esper.leyline.telemetry import DecisionsTaken, Notice

NOW = 10_000.0
STORE = "run.sqlite"


@pytest.fixture
def observer(run):
    """A observer over a run that has nothing yet."""
    return RunObserver(run, run.parent)


@pytest.fixture
def busy_run(run, payloads):
    """A finished run with some of everything, of a few hundred pages."""
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update in range(1, 31):
            for step in range(1, 11):
                writer.emit(
                    DecisionsTaken(
                        update=update, step=step, actions=[], probabilities=[], values=[]
                    )
                )
                writer.emit(payloads.step(step, update=update, first_episode=update))
                writer.emit(payloads.transition(Stage.GERMINATED, update=update, step=step))
            writer.emit(payloads.episodes(update))
            writer.emit(payloads.broken_update(update, "op", "nan"))
        writer.emit(payloads.finish(update=30))
    return run


def whole(observer, now=NOW):
    """Look until there is nothing more to take in, and check that all of it can be shown."""
    while (view := observer(now)).is_behind:
        pass
    assert view.doubt.error is None or is_a_sentence(view.doubt.error)
    assert is_a_sentence(view.status.sentence)
    render_once(view, 80)
    return view


def is_a_sentence(text):
    return bool(text) and "\n" not in text and "Traceback" not in text


def test_no_run_yet_and_then_one(tmp_path, payloads):
    observer = RunObserver(None, tmp_path / "runs")
    view = whole(observer)
    assert view.status.kind is StatusKind.WAITING
    assert "waiting for the first run in" in view.status.sentence
    with RunWriter(create_run(tmp_path / "runs", "first")) as writer:
        writer.emit(payloads.start())
    assert whole(observer).snapshot.run.name == "test"


def test_a_folder_that_is_a_file_has_no_runs_yet(tmp_path):
    (tmp_path / "runs").write_text("")
    assert whole(RunObserver(None, tmp_path / "runs")).status.kind is StatusKind.WAITING


def test_an_empty_run_and_one_that_is_being_created(run, observer, payloads):
    assert whole(observer).status.kind is StatusKind.WAITING
    (run / STORE).touch()
    view = whole(observer)
    assert (view.status.kind, view.doubt.error) == (StatusKind.WAITING, None)
    with closing(sqlite3.connect(run / STORE)) as store:
        store.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        store.commit()
    assert "not one that Esper wrote" in whole(observer).doubt.error
    (run / STORE).unlink()
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
    view = whole(observer)
    assert (view.snapshot.run.name, view.doubt.error) == ("test", None)


def test_a_run_that_starts_says_with_what(run, observer, payloads):
    with RunWriter(run) as writer:
        writer.emit(Notice(level="info", text="loading PyTorch"), durable=True)
        writer.flush()
        view = whole(observer, now=0.0)
        assert view.status.kind is StatusKind.STARTING
        assert view.status.sentence.endswith("is starting: loading PyTorch")
        assert "STARTING" in render_once(view, 80).plain
        writer.emit(payloads.start(), durable=True)
        assert whole(observer, now=0.0).status.kind is StatusKind.LIVE


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda store: store.write_text("plain text"), "not a run store"),
        (lambda store: os.truncate(store, 50), "cannot be read"),
        (lambda store: os.truncate(store, 4096), "cannot be read"),
        (lambda store: (store.unlink(), store.mkdir()), "is a directory, not a run store"),
        (lambda store: _set_version(store, 99), "written by a newer Esper"),
        (lambda store: _set_version(store, "many"), "cannot be read"),
    ],
)
def test_the_reason_why_a_store_cannot_be_read_is_shown_everywhere(
    busy_run, damage, expected, capsys
):
    damage(busy_run / STORE)
    catalogue = RunCatalogue(busy_run.parent)

    for view in (whole(RunObserver(busy_run, busy_run.parent)), read_view(busy_run, NOW)):
        assert expected in view.doubt.error
        assert view.status.kind is StatusKind.UNREADABLE
        frame = render_once(view, 80).plain
        assert UNLIT not in frame
        # Eight heads and two groups, Inf and NaN; latches.jsonl knows of one of them.
        assert frame.count(UNKNOWN) == 19
        assert "no Inf" not in frame
        assert view.doubt.lights == "the store cannot be read"
    while (found := catalogue.look(NOW)).is_behind:
        pass
    assert found.runs[0].status.kind is StatusKind.UNREADABLE
    assert print_runs(busy_run.parent) == 0
    printed = capsys.readouterr().out
    assert "UNREADABLE" in printed
    assert expected in printed


def test_lights_are_known_from_their_own_table_where_the_events_are_gone(busy_run):
    _execute(busy_run / STORE, "DROP TABLE events")
    view = whole(RunObserver(busy_run, busy_run.parent))
    assert "cannot be read" in view.doubt.error
    assert [head for head, lit in view.snapshot.tamiyo.head_nan_latch.items() if lit] == ["op"]
    frame = render_once(view, 80).plain
    assert UNLIT not in frame
    assert frame.count(UNKNOWN) == 19  # all but NaN of op


@pytest.fixture
def once_broken_run(run, payloads):
    """A finished run of ten updates, in the fifth of which `op` went Inf."""
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        for update in range(1, 11):
            writer.emit(payloads.step(update=update))
            writer.emit(payloads.episodes(update))
            broken = payloads.broken_update(update, "op", "+inf")
            writer.emit(broken if update == 5 else payloads.update(update))
        writer.emit(payloads.finish(update=10))
    return run


def _damage_update(run, update):
    store = run / STORE
    _execute(
        store,
        f"UPDATE events SET payload = x'ab' WHERE kind = 'ppo_update' AND update_index = {update}",
    )


def test_a_light_whose_event_is_damaged_stays_on_and_dark_ones_are_not_known(
    once_broken_run, capsys
):
    before = read_view(once_broken_run, NOW).snapshot.tamiyo
    _damage_update(once_broken_run, 5)
    observer = RunObserver(once_broken_run, once_broken_run.parent)
    view = whole(observer)

    assert view.snapshot.run.damaged_events == 1
    assert view.snapshot.tamiyo.head_inf_latch == before.head_inf_latch
    assert view.snapshot.tamiyo.first == before.first
    assert view.snapshot.tamiyo.evidence == before.evidence
    frame = render_once(view, 80).plain
    assert UNLIT not in frame
    assert frame.count(UNKNOWN) == 19
    assert read_view(once_broken_run, NOW).snapshot.tamiyo == view.snapshot.tamiyo
    assert whole(observer).snapshot is view.snapshot  # nothing is drawn again for it

    observer.go_to(3)  # before the damage: all is known, and nothing was lit
    past = whole(observer)
    assert past.doubt.lights is None
    assert not any(past.snapshot.tamiyo.head_inf_latch.values())
    observer.go_to(7)
    assert whole(observer).snapshot.tamiyo.head_inf_latch == before.head_inf_latch

    print_runs(once_broken_run.parent)
    assert "● Inf op  ? 1 event is damaged" in capsys.readouterr().out
    with pytest.raises(RunStoreError, match="1 event is damaged"):
        print_health(once_broken_run.parent, fail_on="nan")
    assert print_health(once_broken_run.parent, fail_on="") == 0
    assert print_health(once_broken_run.parent) == 1
    printed = capsys.readouterr().out
    assert UNLIT not in printed
    assert "? not known: 1 event is damaged" in printed
    assert print_health(once_broken_run.parent, as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["head_inf_latch"] == {
        head: True if lit else None for head, lit in before.head_inf_latch.items()
    }


def test_where_damage_leaves_nothing_lit_nothing_is_called_good(once_broken_run, capsys):
    _damage_update(once_broken_run, 4)
    for table in ("latches", "sightings"):
        _execute(once_broken_run / STORE, f"DELETE FROM {table}")
    _damage_update(once_broken_run, 5)
    (once_broken_run / "latches.jsonl").unlink()
    view = whole(RunObserver(once_broken_run, once_broken_run.parent))
    frame = render_once(view, 80).plain
    assert frame.count(UNKNOWN) == 20
    assert "not known: 2 events are damaged" in frame
    assert "no Inf" not in frame
    with pytest.raises(RunStoreError, match="2 events are damaged"):
        print_health(once_broken_run.parent)
    print_runs(once_broken_run.parent)
    assert "? 2 events are damaged" in capsys.readouterr().out


def test_no_damaged_page_makes_a_broken_run_a_healthy_one(once_broken_run):
    store = once_broken_run / STORE
    data = store.read_bytes()
    for start in range(4096, len(data), 4096):
        store.write_bytes(data[:start] + b"\xab" * 4096 + data[start + 4096 :])
        try:
            code = print_health(once_broken_run.parent, console=Console(file=io.StringIO()))
        except RunStoreError:
            code = 2
        assert code in (1, 2)
        observer = RunObserver(once_broken_run, once_broken_run.parent)
        assert "no Inf" not in render_once(whole(observer), 80).plain


def _execute(store, query):
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(query)
        connection.commit()


def _set_version(store, version):
    _execute(store, f"UPDATE meta SET value = '{version}' WHERE key = 'store_version'")


@pytest.mark.parametrize("seed", range(12))
def test_random_bytes_anywhere_in_a_store_are_counted_or_reported(busy_run, seed):
    chance = random.Random(seed)
    store = busy_run / STORE
    data = bytearray(store.read_bytes())
    for _ in range(3):
        start = chance.randrange(100, len(data) - 4096)
        data[start : start + 4096] = chance.randbytes(4096)
    store.write_bytes(data)

    observer = RunObserver(busy_run, busy_run.parent)
    view = whole(observer)
    assert view.doubt.error or view.snapshot.run.damaged_events or view.snapshot.last_event_id
    assert (view.doubt.sentence or "") in render_once(view, 200).plain
    assert bool(view.doubt.sentence) == bool(view.doubt.error or view.snapshot.run.damaged_events)
    for update in (1, 15, 30):
        observer.go_to(update)
        whole(observer)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_truncated_store_is_counted_or_reported(busy_run, share):
    store = busy_run / STORE
    os.truncate(store, int(store.stat().st_size * share))

    view = whole(RunObserver(busy_run, busy_run.parent))
    assert view.doubt.error or view.snapshot.run.damaged_events


@pytest.mark.parametrize("at", [None, 7])
def test_a_directory_that_vanishes_leaves_its_last_picture(busy_run, at):
    observer = RunObserver(busy_run, busy_run.parent, at=at)
    before = whole(observer)
    shutil.rmtree(busy_run)
    after = whole(observer)

    assert after.snapshot == before.snapshot
    assert "is not there" in after.doubt.error
    assert after.doubt.is_unread
    assert not before.doubt.is_unread
    assert whole(observer).doubt.error == after.doubt.error
    busy_run.mkdir()
    assert whole(observer).doubt.error


def test_a_clock_that_jumps_changes_nothing_but_ages(busy_run, payloads):
    observer = RunObserver(busy_run, busy_run.parent)
    before = whole(observer)
    for now in (0.0, -1e9, 1e12, NOW):
        view = whole(observer, now)
        assert view.snapshot is before.snapshot
        assert view.status.kind is StatusKind.FINISHED
    with closing(sqlite3.connect(busy_run / STORE)) as store:
        store.execute("UPDATE events SET time = -time WHERE id % 2")
        store.commit()
    assert whole(RunObserver(busy_run, Path("nowhere"))).snapshot.run.update == 30


@pytest.fixture
def ticks():
    """A clock that is never set, as a list of its one reading."""
    return [500.0]


@pytest.fixture
def silent_run(run, payloads):
    """A live run of this process, with one heartbeat at `NOW`."""
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.broken_update(1, "op", "nan"))
    _beat(run, NOW)
    return run


def _beat(run, at):
    _execute(run / STORE, f"UPDATE heartbeat SET time = {at}")


def test_a_stopped_process_is_stale_until_it_is_continued(silent_run, ticks):
    observer = RunObserver(silent_run, silent_run.parent, ticks=lambda: ticks[0])
    assert whole(observer).status.kind is StatusKind.LIVE
    for seconds, kind in ((9, StatusKind.LIVE), (11, StatusKind.STALE), (3_600, StatusKind.STALE)):
        ticks[0] = 500.0 + seconds
        assert whole(observer, NOW + seconds).status.kind is kind
    view = whole(observer, NOW + 3_600)
    assert view.status.sentence.endswith("exists, but sent no heartbeat for 3600 s")
    assert "STALE 3600 s" in render_once(view, 80).plain
    assert not view.doubt.is_unread
    _beat(silent_run, NOW + 3_601)
    ticks[0] += 1
    view = whole(observer, NOW + 3_601)
    assert (view.status.kind, view.doubt.sentence) == (StatusKind.LIVE, None)


@pytest.mark.parametrize("jump", [3_600.0, -3_600.0, 1e9, -1e9])
def test_a_clock_that_jumps_makes_no_run_stale_and_no_silent_one_live(silent_run, ticks, jump):
    observer = RunObserver(silent_run, silent_run.parent, ticks=lambda: ticks[0])
    assert whole(observer).status.kind is StatusKind.LIVE
    ticks[0] += 1
    assert whole(observer, NOW + jump).status.kind is StatusKind.LIVE  # before the next beat
    _beat(silent_run, NOW + jump + 1)
    ticks[0] += 1
    assert whole(observer, NOW + jump + 2).status.kind is StatusKind.LIVE
    ticks[0] += 42
    view = whole(observer, NOW + jump + 44)
    assert view.status.kind is StatusKind.STALE
    assert view.status.seconds == pytest.approx(42, abs=1)


def test_a_run_that_was_moved_away_and_comes_back_is_whole_again(silent_run, ticks):
    observer = RunObserver(silent_run, silent_run.parent, ticks=lambda: ticks[0])
    before = whole(observer)
    away = silent_run.rename(silent_run.parent / "away")
    gone = whole(observer)
    assert gone.doubt.is_unread
    assert gone.snapshot == before.snapshot
    away.rename(silent_run)
    after = whole(observer)
    assert (after.doubt.sentence, after.doubt.is_unread) == (None, False)
    assert (after.snapshot, after.status.kind) == (before.snapshot, StatusKind.LIVE)


def test_a_new_run_under_the_path_of_a_deleted_one_is_read_from_its_start(
    busy_run, tmp_path, payloads
):
    observer = RunObserver(busy_run, busy_run.parent)
    assert whole(observer).snapshot.run.update == 30
    other = create_run(tmp_path / "others", "other")
    with RunWriter(other) as writer:
        writer.emit(payloads.start(name="other"))
        writer.emit(payloads.update(1))
    # Into the same file, as a file system may give the same number again.
    (busy_run / STORE).write_bytes((other / STORE).read_bytes())
    view = whole(observer)
    assert (view.snapshot.run.name, view.snapshot.run.update) == ("other", 1)
    # The run's own light was seen: it stays on, even if another store has its name now.
    assert view.snapshot.tamiyo.head_nan_latch["op"]
    assert "was replaced by another one" in view.doubt.sentence


@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_is_damaged_while_it_is_open_keeps_its_lights(busy_run, seed):
    observer = RunObserver(busy_run, busy_run.parent)
    before = whole(observer)
    chance = random.Random(seed)
    store = busy_run / STORE
    with store.open("r+b") as file:
        for _ in range(5):
            file.seek(chance.randrange(100, store.stat().st_size - 4096))
            file.write(chance.randbytes(4096))
        if seed == 0:
            file.truncate(store.stat().st_size // 2)
    view = whole(observer)
    assert view.snapshot.tamiyo.head_nan_latch == before.snapshot.tamiyo.head_nan_latch
    assert view.snapshot.run.update == 30


def test_a_store_continued_by_a_newer_version_is_reported_and_keeps_its_lights(busy_run):
    observer = RunObserver(busy_run, busy_run.parent)
    before = whole(observer)
    _set_version(busy_run / STORE, 99)
    view = whole(observer)
    assert "written by a newer Esper" in view.doubt.error
    assert "update Esper to open it" in view.doubt.error
    assert view.snapshot == before.snapshot
    assert view.doubt.is_unread


def test_damaged_events_and_damaged_acknowledgements_are_both_reported(views):
    healthy = views.healthy()
    damaged = replace(healthy, run=replace(healthy.run, damaged_events=2))
    view = views.view(damaged, acknowledgements_error="acknowledgements.jsonl is damaged")

    assert view.doubt.sentence.startswith("2 events are damaged")
    assert view.doubt.sentence.endswith("; acknowledgements.jsonl is damaged")

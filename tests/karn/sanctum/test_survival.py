"""Whatever becomes of a run, a cockpit over it shows one clear sentence and never a traceback."""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from esper.karn.liveness import StatusKind
from esper.karn.reports import print_runs
from esper.karn.run_catalogue import RunCatalogue
from esper.karn.run_store import RunWriter, create_run
from esper.karn.sanctum.capture import render_once
from esper.karn.sanctum.watch import RunWatch, look_once
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import UNKNOWN, UNLIT
from esper.leyline.heads import Stage
from esper.leyline.telemetry import DecisionsTaken, Notice

NOW = 10_000.0
STORE = "run.sqlite"


@pytest.fixture
def watch(run):
    """A watch over a run that has nothing yet."""
    return RunWatch(run, run.parent)


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


def whole(watch, now=NOW):
    """Look until there is nothing more to take in, and check that all of it can be shown."""
    while (view := watch(now)).is_behind:
        pass
    assert view.error is None or is_a_sentence(view.error)
    assert is_a_sentence(view.status.sentence)
    render_once(view, 80)
    return view


def is_a_sentence(text):
    return bool(text) and "\n" not in text and "Traceback" not in text


def test_no_run_yet_and_then_one(tmp_path, payloads):
    watch = RunWatch(None, tmp_path / "runs")
    view = whole(watch)
    assert view.status.kind is StatusKind.WAITING
    assert "waiting for the first run in" in view.status.sentence
    with RunWriter(create_run(tmp_path / "runs", "first")) as writer:
        writer.emit(payloads.start())
    assert whole(watch).snapshot.run.name == "test"


def test_a_folder_that_is_a_file_has_no_runs_yet(tmp_path):
    (tmp_path / "runs").write_text("")
    assert whole(RunWatch(None, tmp_path / "runs")).status.kind is StatusKind.WAITING


def test_an_empty_run_and_one_that_is_being_created(run, watch, payloads):
    assert whole(watch).status.kind is StatusKind.WAITING
    (run / STORE).touch()
    view = whole(watch)
    assert (view.status.kind, view.error) == (StatusKind.WAITING, None)
    with closing(sqlite3.connect(run / STORE)) as store:
        store.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        store.commit()
    assert "not one that Esper wrote" in whole(watch).error
    (run / STORE).unlink()
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
    view = whole(watch)
    assert (view.snapshot.run.name, view.error) == ("test", None)


def test_a_run_that_starts_says_with_what(run, watch, payloads):
    with RunWriter(run) as writer:
        writer.emit(Notice(level="info", text="loading PyTorch"), durable=True)
        writer.flush()
        view = whole(watch, now=0.0)
        assert view.status.kind is StatusKind.STARTING
        assert view.status.sentence.endswith("is starting: loading PyTorch")
        assert "STARTING" in render_once(view, 80).plain
        writer.emit(payloads.start(), durable=True)
        assert whole(watch, now=0.0).status.kind is StatusKind.LIVE


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda store: store.write_text("dear diary"), "not a run store"),
        (lambda store: os.truncate(store, 50), "cannot be read"),
        (lambda store: os.truncate(store, 4096), "cannot be read"),
        (lambda store: (store.unlink(), store.mkdir()), "cannot be read"),
        (lambda store: _set_version(store, 99), "written by a newer Esper"),
        (lambda store: _set_version(store, "many"), "cannot be read"),
        (lambda store: _execute(store, "DROP TABLE events"), "cannot be read"),
    ],
)
def test_a_store_that_cannot_be_read_says_why_everywhere(busy_run, damage, said, capsys):
    damage(busy_run / STORE)
    catalogue = RunCatalogue(busy_run.parent)

    for view in (whole(RunWatch(busy_run, busy_run.parent)), look_once(busy_run, NOW)):
        assert said in view.error
        assert view.status.kind is StatusKind.UNREADABLE
        frame = render_once(view, 80).plain
        assert UNLIT not in frame
        assert frame.count(UNKNOWN) == 18  # eight heads and what they share, Inf and NaN
        assert "no Inf" not in frame
        assert "not known: the store cannot be read" in frame
    while (found := catalogue.look(NOW)).is_behind:
        pass
    assert found.runs[0].status.kind is StatusKind.UNREADABLE
    assert print_runs(busy_run.parent) == 0
    printed = capsys.readouterr().out
    assert "UNREADABLE" in printed
    assert said in printed


def _execute(store, query):
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(query)
        connection.commit()


def _set_version(store, version):
    _execute(store, f"UPDATE meta SET value = '{version}' WHERE key = 'store_version'")


@pytest.mark.parametrize("seed", range(12))
def test_rubbish_anywhere_in_a_store_is_counted_or_said(busy_run, seed):
    chance = random.Random(seed)
    store = busy_run / STORE
    data = bytearray(store.read_bytes())
    for _ in range(3):
        start = chance.randrange(100, len(data) - 4096)
        data[start : start + 4096] = chance.randbytes(4096)
    store.write_bytes(data)

    watch = RunWatch(busy_run, busy_run.parent)
    view = whole(watch)
    assert view.error or view.snapshot.run.damaged_events or view.snapshot.last_event_id
    assert (view.trouble or "") in render_once(view, 200).plain
    assert bool(view.trouble) == bool(view.error or view.snapshot.run.damaged_events)
    for update in (1, 15, 30):
        watch.go_to(update)
        whole(watch)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_store_that_was_cut_short_is_counted_or_said(busy_run, share):
    store = busy_run / STORE
    os.truncate(store, int(store.stat().st_size * share))

    view = whole(RunWatch(busy_run, busy_run.parent))
    assert view.error or view.snapshot.run.damaged_events


@pytest.mark.parametrize("at", [None, 7])
def test_a_directory_that_vanishes_leaves_its_last_picture(busy_run, at):
    watch = RunWatch(busy_run, busy_run.parent, at=at)
    before = whole(watch)
    shutil.rmtree(busy_run)
    after = whole(watch)

    assert after.snapshot == before.snapshot
    assert "is not there" in after.error
    assert after.is_unread
    assert not before.is_unread
    assert whole(watch).error == after.error
    busy_run.mkdir()
    assert whole(watch).error


def test_a_clock_that_jumps_changes_nothing_but_ages(busy_run, payloads):
    watch = RunWatch(busy_run, busy_run.parent)
    before = whole(watch)
    for now in (0.0, -1e9, 1e12, NOW):
        view = whole(watch, now)
        assert view.snapshot is before.snapshot
        assert view.status.kind is StatusKind.FINISHED
    with closing(sqlite3.connect(busy_run / STORE)) as store:
        store.execute("UPDATE events SET time = -time WHERE id % 2")
        store.commit()
    assert whole(RunWatch(busy_run, Path("nowhere"))).snapshot.run.update == 30

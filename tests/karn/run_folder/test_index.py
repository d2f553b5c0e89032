"""The index of a folder avoids reading stores, but a changed store always takes precedence."""

import fcntl
import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.karn.reports import run_catalogue
from esper.karn.reports.run_catalogue import RunCatalogue, list_runs
from esper.karn.reports.run_folder.index_file import INDEX_NAME, read_index, write_index
from esper.karn.reports.run_folder.run_summary import summary_of
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.following.store_follower import StoreFollower
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import IncidentRecorded

_NAMES = ("amber", "birch", "cedar", "douglas", "elm", "fir")


def ageless(summaries):
    """Return summaries without the age of their heartbeats."""
    return [replace(one, status=replace(one.status, seconds=None)) for one in summaries]


@pytest.fixture
def opened(monkeypatch):
    """Return a list of the runs whose stores are opened from now on."""
    names = []
    follower = run_catalogue.RunFollower

    def noted(directory, **more):
        names.append(directory.name.split("-")[-1])
        return follower(directory, **more)

    monkeypatch.setattr(run_catalogue, "RunFollower", noted)
    return names


def test_runs_that_have_ended_are_read_once(sweep, opened):
    before = list_runs(sweep)
    first, opened[:] = sorted(opened), []
    after = list_runs(sweep)

    assert ageless(after) == ageless(before)
    assert [run.settings for run in after] == [run.settings for run in before]
    assert len(first) == 6
    assert opened in ([], ["fir"])  # the one without an end may count as active


@pytest.mark.parametrize("name", ["run.sqlite", "note.txt", "latches.jsonl"])
def test_a_run_whose_files_changed_is_read_again(sweep, opened, name):
    list_runs(sweep)
    opened.clear()
    path = next(sweep.glob("*birch")) / name
    path.touch()
    list_runs(sweep)

    assert "birch" in opened
    assert "cedar" not in opened


def test_a_store_that_was_replaced_is_believed_and_not_the_index(sweep):
    list_runs(sweep)
    birch, amber = next(sweep.glob("*birch")), next(sweep.glob("*amber"))
    shutil.rmtree(birch)
    shutil.copytree(amber, birch)

    assert not list_runs(sweep)[1].is_lit


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "link", "folder", "other"])
def test_an_index_that_cannot_be_used_is_ignored_and_made_again(sweep, damage):
    before = list_runs(sweep)
    path = sweep / INDEX_NAME
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-7])
    elif damage == "flipped":
        data[-9] ^= 1
        path.write_bytes(data)
    elif damage == "link":
        path.symlink_to("/dev/zero")
    elif damage == "folder":
        path.mkdir()
    elif damage == "other":
        path.write_bytes(data.replace(b"index 1", b"index 0", 1))

    assert read_index(sweep) == {}
    assert ageless(list_runs(sweep)) == ageless(before)
    if damage != "folder":  # that one stays, and nothing is written
        assert read_index(sweep)


def test_a_folder_that_cannot_be_written_is_listed_without_an_index(sweep, monkeypatch):
    def refuse(*_arguments, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("esper.karn.reports.run_folder.index_file.os.replace", refuse)

    assert len(list_runs(sweep)) == 6
    assert not (sweep / INDEX_NAME).exists()


def test_a_name_that_is_not_utf8_is_left_out_of_the_index(sweep):
    amber = next(sweep.glob("*amber"))
    amber.rename(sweep / os.fsdecode(b"19700101-000000-amber\xff"))

    assert len(list_runs(sweep)) == len(list_runs(sweep)) == 6
    assert len(read_index(sweep)) == 5


def test_who_stops_half_way_keeps_what_the_index_knew(sweep, monkeypatch):
    list_runs(sweep)
    ticks = map(float, count())
    clock = SimpleNamespace(time=time.time, time_ns=time.time_ns, monotonic=lambda: next(ticks))
    monkeypatch.setattr(run_catalogue, "time", clock)
    known = read_index(sweep)
    catalogue = RunCatalogue(sweep)
    (next(sweep.glob("*elm")) / "note.txt").write_text("new")
    found = catalogue.look(time.time(), seconds=4.0)
    assert found.is_behind
    assert {"elm", "fir"} <= {run.name for run in found.runs} < set(_NAMES)
    before = (sweep / INDEX_NAME).stat().st_ino
    catalogue.save()

    assert (sweep / INDEX_NAME).stat().st_ino != before
    assert read_index(sweep).keys() >= known.keys() - {found.runs[-2].run_id}


def test_two_writers_leave_a_whole_index(sweep):
    list_runs(sweep)
    known = read_index(sweep)
    partial = sweep / ".esper-runs-index.partial"
    with partial.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not write_index(sweep, [])
    assert read_index(sweep) == known
    assert write_index(sweep, known.values())
    assert not partial.exists()


def test_a_small_folder_gets_no_file(sweep, monkeypatch):
    monkeypatch.setattr(run_catalogue, "FEWEST_INDEXED", 7)
    list_runs(sweep)

    assert not (sweep / INDEX_NAME).exists()


def test_a_live_run_is_read_on_from_its_digest(sweep, payloads, monkeypatch):
    live = create_run(sweep, "live", now=86_400.0 * 30)
    with RunWriter(live) as writer:
        writer.emit(payloads.start(name="live"))
        for update in range(1, 30):
            writer.emit(payloads.episodes(update, score=[1 - abs(update - 11) / 30]))
            broken = update == 7
            writer.emit(
                payloads.broken_update(7, "tempo", "+inf") if broken else payloads.update(update)
            )
        writer.flush()
        whole = list_runs(sweep)[-1]
        digest = read_index(sweep)["19700131-000000-live"].digest
        writer.emit(payloads.update(30), durable=True)
        read = []
        apply = StoreFollower._begin_with_digest

        def noted(self, newest):
            apply(self, newest)
            read.append((self._directory.name, self._cursor))

        monkeypatch.setattr(StoreFollower, "_begin_with_digest", noted)
        again = list_runs(sweep)[-1]

    assert len(digest.ids) <= 6
    assert ("19700131-000000-live", digest.up_to) in read
    assert (whole.update, again.update) == (29, 30)
    assert again.inf_heads == ("tempo",)
    assert (again.best_score, again.score) == (whole.best_score, whole.score)
    assert again.first_light == whole.first_light


def test_a_digest_of_another_store_is_not_used(sweep, payloads):
    run = next(sweep.glob("*birch"))
    follower = RunFollower(run, brief=True, keeps_histories=False)
    follower.catch_up()
    other = next(sweep.glob("*cedar"))
    summary = summary_of(
        other,
        RunFollower(other, brief=True, keeps_histories=False, digest=follower.digest()).catch_up(),
    )

    assert summary.nan_heads == ("slot",)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["good", "op", "slot", "drill", "again", "incident", "stall", "notice"]),
        st.floats(0.0, 1.0),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=20, deadline=None)
@given(steps=_STEPS, cut=st.integers(0, 24))
def test_a_digest_gives_the_same_summary_as_all_events(steps, cut, tmp_path_factory, payloads):
    run = create_run(tmp_path_factory.mktemp("runs"), "digest")
    events = [payloads.start()]
    for update, (kind, score) in enumerate(steps, start=1):
        events.append(payloads.episodes(update, score=[score]))
        more = {"still_updates": 5 + update} if kind == "stall" else {}
        if kind in ("op", "slot"):
            events.append(payloads.broken_update(update, kind, "nan"))
        elif kind in ("drill", "again"):
            seen = payloads.sighting(planted=kind == "drill", reproduced=kind == "again")
            events.append(
                payloads.update(update, head_nonfinite=[seen], head_inf_detected={"op": True})
            )
        else:
            events.append(payloads.update(update, **more))
        if kind == "incident":
            events.append(IncidentRecorded(update=update, number=update, path="", size=0))
    with RunWriter(run) as writer:
        for event in events[: cut + 1]:
            writer.emit(event)
        writer.flush()
        first = RunFollower(run, brief=True, keeps_histories=False)
        first.catch_up()
        digest = first.digest()
        assert digest is not None
        for event in events[cut + 1 :]:
            writer.emit(event)
        writer.flush()
        now = time.time()
        skipping = RunFollower(run, brief=True, keeps_histories=False, digest=digest).poll(now)
        whole = RunFollower(run, brief=True).poll(now)

    assert ageless([summary_of(run, skipping)]) == ageless([summary_of(run, whole)])


def test_a_digest_with_an_event_that_is_gone_is_not_used(sweep):
    run = next(sweep.glob("*birch"))
    follower = RunFollower(run, brief=True, keeps_histories=False)
    follower.catch_up()
    with closing(sqlite3.connect(run / "run.sqlite")) as store:
        store.execute("DELETE FROM events WHERE id = 1")
        store.commit()
    frames = [
        RunFollower(run, brief=True, keeps_histories=False, digest=digest).catch_up()
        for digest in (None, follower.digest())
    ]
    whole, skipping = ageless(summary_of(run, frame) for frame in frames)

    assert whole == skipping


def test_a_catalogue_notices_a_changed_run_among_many(sweep, monkeypatch):
    monkeypatch.setattr(run_catalogue, "_CHECKED_PER_LOOK", 2)
    catalogue = RunCatalogue(sweep)
    while catalogue.look(time.time()).is_behind:
        pass
    (next(sweep.glob("*amber")) / "note.txt").write_text("kept")
    notes = set()
    for _ in range(4):
        notes |= {run.note for run in catalogue.look(time.time()).runs}

    assert "kept" in notes
    assert os.listdir(sweep)

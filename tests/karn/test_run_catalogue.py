"""The catalogue of runs: the result of each run, read once, and comparisons of two runs."""

import math
import os
import shutil
import time

import pytest

from esper.karn.reports import run_catalogue
from esper.karn.reports.run_catalogue import RunCatalogue, list_runs
from esper.karn.reports.run_comparison import compare_runs
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import IncidentRecorded


@pytest.fixture
def folder(tmp_path, payloads):
    """A folder of three runs: a good one, one with lights, and one that was never begun."""
    for day, name in enumerate(("good", "bad")):
        with RunWriter(create_run(tmp_path, name, now=86_400.0 * day)) as writer:
            writer.emit(payloads.start(config={"seed": day, "lr": 0.1, name: 1}))
            for update, score in enumerate((0.25, 0.75, math.nan, 0.5), start=1):
                for step in (1, 2, 3):
                    writer.emit(payloads.step(step, update=update))
                writer.emit(payloads.episodes(update, score=[score]))
                if name == "bad":
                    writer.emit(payloads.broken_update(update, "op", "nan"))
                    writer.emit(IncidentRecorded(update=update, number=update, path="", size=0))
                else:
                    writer.emit(payloads.update(update))
            writer.emit(payloads.finish(update=4, episodes_done=8))
    create_run(tmp_path, "new", now=86_400.0 * 9)
    for path in tmp_path.rglob("*"):  # a file that changed just now is read again
        os.utime(path, (1_000.0, 1_000.0))
    return tmp_path


def whole(catalogue, now=1.0):
    while (found := catalogue.look(now)).is_behind:
        pass
    return found.runs


def test_a_run_is_summarised(folder):
    good, bad, new = list_runs(folder)

    assert (good.task, good.update, good.episodes_done, good.episodes) == ("mnist1d", 4, 8, 10)
    assert (good.score, good.best_score, good.incidents) == (0.5, 0.75, 0)
    assert good.started_at == pytest.approx(time.time(), abs=60)
    assert (good.nan_heads, bad.nan_heads, bad.inf_heads, bad.incidents) == ((), ("op",), (), 4)
    assert (new.status.kind, new.best_score, new.doubt.error) == (StatusKind.WAITING, None, None)


def test_the_catalogue_says_the_same_as_the_list(folder):
    assert [(run.run_id, run.score, run.nan_heads) for run in whole(RunCatalogue(folder))] == [
        (run.run_id, run.score, run.nan_heads) for run in list_runs(folder)
    ]


def test_what_did_not_change_is_not_read_again(folder, monkeypatch):
    catalogue = RunCatalogue(folder)
    before = whole(catalogue)
    opened = []
    follower = run_catalogue.RunFollower
    monkeypatch.setattr(
        run_catalogue,
        "RunFollower",
        lambda directory, **more: opened.append(directory.name) or follower(directory, **more),
    )
    polls = []
    monkeypatch.setattr(follower, "poll", lambda self, now: polls.append(self) or _fail())
    monkeypatch.setattr(catalogue, "_followed", {})
    after = catalogue.look(2.0).runs

    assert after == before
    assert polls == []


def _fail():
    raise AssertionError("a store was read again")


def test_new_events_of_a_run_are_noticed(folder, payloads):
    catalogue = RunCatalogue(folder)
    whole(catalogue)
    new = folder / "19700110-000000-new"
    with RunWriter(new) as writer:
        writer.emit(payloads.start(), durable=True)
        assert whole(catalogue, time.time())[-1].status.kind is StatusKind.LIVE
        writer.emit(payloads.update(1), durable=True)
        assert whole(catalogue, time.time())[-1].update == 1
    shutil.rmtree(new)
    assert len(whole(catalogue)) == 2


def test_a_look_ends_in_time_and_the_newest_are_first(folder):
    catalogue = RunCatalogue(folder)
    found = catalogue.look(1.0, seconds=0.0)

    assert (found.runs, found.is_behind) == ((), True)
    assert len(whole(catalogue)) == 3


def test_a_store_that_cannot_be_read_says_so_and_is_not_waited_for(folder):
    (folder / "19700110-000000-new" / "run.sqlite").write_text("plain text")

    for found in (whole(RunCatalogue(folder)), list_runs(folder)):
        assert found[-1].status.kind is StatusKind.UNREADABLE
        assert "not a run store" in found[-1].doubt.error


def test_two_runs_are_compared(folder):
    directories = [run.path for run in list_runs(folder)]
    found = compare_runs(directories[0], directories[1])
    settings = {one.name: one for one in found.settings}
    figures = {one.name: one for one in found.figures}

    assert {name for name, one in settings.items() if one.differs} == {"seed", "good", "bad"}
    assert settings["bad"].values == (None, 1)
    assert figures["NaN seen in"].values == ("", "op")
    assert not figures["best score"].differs
    assert [run.run_id for run in found.runs] == [run.name for run in directories[:2]]
    assert [history.name for history in found.histories][:3] == ["Score", "Entropy", "KL"]
    assert all([len(one) for one in history.values] == [4, 4] for history in found.histories)


def test_a_run_compares_with_one_that_cannot_be_read(folder):
    directories = [run.path for run in list_runs(folder)]
    found = compare_runs(directories[0], folder / "nowhere")

    assert found.runs[1].doubt.error is not None
    assert all(history.values[1] == () for history in found.histories)
    assert all(one.values[1] is None for one in found.settings)


def test_a_file_that_was_touched_is_read_again(folder):
    catalogue = RunCatalogue(folder)
    good = whole(catalogue)[0]
    os.utime(good.path / "run.sqlite", (1.0, 1.0))

    assert whole(catalogue)[0].score == good.score

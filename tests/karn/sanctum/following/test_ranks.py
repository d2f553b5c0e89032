"""A run whose ranks each write a store, read as one run."""

import shutil
import sqlite3
import time

import pytest

from esper.karn.reports.health import health_as_json, read_health
from esper.karn.reports.run_catalogue import RunCatalogue, list_runs
from esper.karn.sanctum.cockpit.observer import read_view
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.sanctum.frame.run_header import render_header
from esper.karn.sanctum.overview.lights_panel import render_lights
from esper.karn.store.rank_folders import create_rank_folder
from esper.karn.store.run_store import RunWriter, create_run

WORLD = 3


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path / "runs", "joined", now=0.0)


@pytest.fixture
def write(run, payloads):
    """Return a function that writes the store of a rank, in which a light may come on."""
    writers = []

    def write(rank, *, updates=3, bad=None, ends="finished", world_size=WORLD):
        writer = RunWriter(create_rank_folder(run, rank))
        writers.append(writer)
        start = payloads.start(
            run_id=run.name, rank=rank, world_size=world_size, library="torch", device=f"cpu:{rank}"
        )
        writer.emit(start)
        for number in range(1, updates + 1):
            if number == bad:
                writer.emit(payloads.broken_update(number, "op", "nan"), durable=True)
            else:
                writer.emit(payloads.update(number), durable=True)
        if ends:
            writer.emit(payloads.finish(ends), durable=True)
            writer.close()
        writer.flush()
        return writer

    yield write
    for writer in writers:
        writer.close()


def frame_of(run):
    return RunFollower(run).catch_up()


def test_a_light_of_any_rank_is_a_light_of_the_run(run, write):
    write(0)
    write(1, bad=2)
    write(2, bad=3)

    health = health_as_json(read_health(run))
    assert health["status"] == "FINISHED"
    assert health["head_nan_latch"]["op"] is True
    assert health["head_nan_latch"]["slot"] is False
    (first,) = health["first"]
    assert (first["rank"], first["update"]) == (1, 2)
    (evidence,) = health["evidence"]
    assert evidence["first"]["other_ranks"] == [2]
    assert [one["rank"] for one in health["ranks"]] == [0, 1, 2]
    assert [one["device"] for one in health["ranks"]] == ["cpu:0", "cpu:1", "cpu:2"]

    (summary,) = list_runs(run.parent)
    assert (summary.first_light.rank, summary.world_size) == (1, WORLD)
    assert summary.nan_heads == ("op",)

    view = read_view(run)
    assert "ranks 3" in render_header(view, 120, 5).plain
    assert "op  NaN in logits, rank 1" in "\n".join(
        line.plain for line in render_lights(view, 80, 10)
    )
    assert "rank 1" in view.verdict.reasons[0]
    assert read_view(run, at=1).snapshot.tamiyo.first == ()
    assert read_view(run, at=2).snapshot.tamiyo.first[0].rank == 1


def test_a_run_of_one_process_is_as_its_store_says(run, write):
    write(0, bad=2, world_size=1)

    frame = frame_of(run)
    assert frame.ranks == ()
    assert frame.snapshot.tamiyo.first[0].rank is None
    health = health_as_json(read_health(run))
    assert health["ranks"] is None
    assert health["first"][0]["rank"] is None
    assert "rank" not in render_header(read_view(run), 120, 5).plain


def test_what_missing_ranks_saw_is_not_known(run, write):
    write(0)
    write(2, bad=1)

    frame = frame_of(run)
    assert frame.completeness.doubt == "rank 1 of 3 has no store"
    assert [one.has_store for one in frame.ranks] == [True, False, True]
    latches = health_as_json(read_health(run))["head_nan_latch"]
    assert latches["op"] is True
    assert latches["slot"] is None


def test_a_lost_store_of_rank_0_leaves_the_lights_of_the_others(run, write):
    write(0)
    write(1, bad=2)
    write(2)
    (run / "run.sqlite").unlink()

    frame = frame_of(run)
    assert frame.snapshot.tamiyo.head_nan_latch["op"]
    assert frame.snapshot.tamiyo.first[0].rank == 1
    assert frame.completeness.doubt is not None


def test_damage_is_that_of_its_rank(run, write):
    for rank in range(WORLD):
        write(rank)
    with sqlite3.connect(run / "ranks" / "002" / "run.sqlite") as store:
        store.execute("UPDATE events SET payload = x'c1' WHERE id = 3")
    store.close()

    frame = frame_of(run)
    assert frame.snapshot.run.damaged_events == 1
    assert frame.completeness.doubt == "1 event is damaged"
    assert [one.completeness.damaged_events for one in frame.ranks] == [0, 0, 1]


def test_a_copy_of_a_rank_changes_nothing_but_that_it_is_there_twice(run, write):
    for rank in range(WORLD):
        write(rank, bad=2)
    before = frame_of(run)
    shutil.copytree(run / "ranks" / "001", run / "ranks" / "007")

    after = frame_of(run)
    assert after.snapshot.tamiyo.first == before.snapshot.tamiyo.first
    assert after.snapshot.tamiyo.head_nan_latch == before.snapshot.tamiyo.head_nan_latch
    assert after.status.sentence == before.status.sentence
    (row,) = after.snapshot.tamiyo.evidence
    assert (row.updates, row.first_rank) == (1, 0)


def test_a_silent_rank_is_named_while_the_others_train(run, write):
    write(0, ends="")
    write(1, ends="").close()  # its process exists, and sends no heartbeat any more
    write(2, ends="")
    with sqlite3.connect(run / "ranks" / "001" / "run.sqlite") as store:
        store.execute("UPDATE heartbeat SET time = time - 40")
    store.close()

    frame = frame_of(run)
    assert frame.status.kind == "STALE"
    assert frame.status.sentence.startswith("rank 1 of 3 silent for 4")
    assert "ranks 2 of 3 (rank 1 silent)" in render_header(read_view(run), 120, 5).plain


def test_ranks_that_come_later_are_found_and_an_unchanged_run_is_not_drawn_again(run, write):
    write(0, ends="")
    follower = RunFollower(run)
    assert [one.has_store for one in follower.catch_up().ranks] == [True, False, False]

    write(1, bad=1)
    write(2)
    frame = follower.catch_up()
    assert all(one.has_store for one in frame.ranks)
    assert frame.snapshot.tamiyo.head_nan_latch["op"]
    again = follower.poll(time.time())
    assert again.snapshot is follower.poll(time.time()).snapshot
    follower.close()


def test_a_list_of_runs_reads_a_run_again_whose_rank_has_changed(run, write, payloads):
    for rank in range(WORLD):
        write(rank)
    catalogue = RunCatalogue(run.parent)
    (before,) = catalogue.look(time.time()).runs
    assert not before.is_lit

    with RunWriter(run / "ranks" / "002") as writer:
        writer.emit(payloads.start(run_id=run.name, rank=2, world_size=WORLD))
        writer.emit(payloads.broken_update(4, "op", "nan"), durable=True)
        writer.emit(payloads.finish(), durable=True)
    (after,) = catalogue.look(time.time()).runs
    assert (after.first_light.rank, after.first_light.name) == (2, "op")


def test_fewer_ranks_after_a_restart_are_not_waited_for(run, write, payloads):
    for rank in range(WORLD):
        write(rank, bad=2 if rank == 2 else None, ends="" if rank == 2 else "finished")
    with RunWriter(run) as writer:
        writer.emit(payloads.start(run_id=run.name, world_size=2, resumed_from_update=3))
        writer.emit(payloads.finish(), durable=True)
    with RunWriter(run / "ranks" / "001") as writer:
        writer.emit(payloads.start(run_id=run.name, rank=1, world_size=2, resumed_from_update=3))
        writer.emit(payloads.finish(), durable=True)

    frame = frame_of(run)
    assert frame.snapshot.tamiyo.first[0].rank == 2  # a light never goes out
    assert frame.snapshot.run.world_size == 2
    assert frame.status.kind == "FINISHED"

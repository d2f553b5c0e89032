"""Stores of ranks that are missing, cut short, older copies or late: no reader reassures.

A light that a remaining store or latch file holds is shown by every reader; without the rest of its
rank, every other light is unknown, and the rank is named.
"""

import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import esper
from esper.commands.health import print_health
from esper.karn.reports.health import health_as_json, read_health
from esper.karn.reports.run_catalogue import list_runs
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.errors import RunStoreError
from esper.karn.store.rank_folders import create_rank_folder, rank_folder
from esper.karn.store.run_store import RunWriter, create_run

WORLD = 3
#: The light of each rank, in update 2.
LIGHTS = {0: ("op", "nan"), 1: ("slot", "nan"), 2: ("op", "inf")}
STORE, LATCHES = "run.sqlite", "latches.jsonl"
fates = st.one_of(
    st.just("whole"),
    st.sampled_from(["folder lost", "store lost", "older copy", "older store"]),
    st.tuples(st.just("cut"), st.floats(0, 1), st.booleans()),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, payloads):
    """Two runs of three ranks: after update 1, and the same after its end."""
    older = create_run(tmp_path_factory.mktemp("older"), "ranks")
    whole = tmp_path_factory.mktemp("whole") / older.name
    for rank in range(WORLD):
        with RunWriter(create_rank_folder(older, rank)) as writer:
            writer.emit(payloads.start(run_id=older.name, rank=rank, world_size=WORLD))
            writer.emit(payloads.update(1), durable=True)
    shutil.copytree(older, whole)
    for rank in range(WORLD):  # the process of a copy has ended: this one did not train it
        with closing(sqlite3.connect(rank_folder(older, rank) / STORE)) as store, store:
            store.execute("UPDATE heartbeat SET pid = 99999999")
    for rank, (head, light) in LIGHTS.items():
        kind = "nan" if light == "nan" else "+inf"
        with RunWriter(rank_folder(whole, rank)) as writer:
            writer.emit(payloads.broken_update(2, head, kind), durable=True)
            writer.emit(payloads.finish(update=2), durable=True)
    return older, whole


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def strike(run: Path, older: Path, rank: int, fate: object) -> bool:
    """Do to a rank's store what a fate says; return whether its light is still held somewhere."""
    folder, before = rank_folder(run, rank), rank_folder(older, rank)
    match fate:
        case "whole":
            return True
        case "folder lost":
            for path in files_of(folder):
                path.unlink()
            if rank:
                shutil.rmtree(folder)
            return False
        case "store lost":
            (folder / STORE).unlink()
            return True
        case "older copy":
            for path in files_of(folder):
                path.unlink()
            for path in files_of(before):
                shutil.copy(path, folder)
            return False
        case "older store":
            shutil.copy(before / STORE, folder / STORE)
            return True
        case ("cut", share, has_latches):
            size = (folder / STORE).stat().st_size
            with (folder / STORE).open("r+b") as store:
                store.truncate(int(share * (size - 1)))
            if not has_latches:
                (folder / LATCHES).unlink()
            return bool(has_latches)
    raise AssertionError(fate)


@given(st.lists(fates, min_size=WORLD, max_size=WORLD))
@settings(max_examples=60)
def test_no_reader_reassures_when_stores_of_ranks_are_lost(runs, described):
    older, whole = runs
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(whole, Path(folder) / whole.name))
        held = {rank for rank, fate in enumerate(described) if strike(run, older, rank, fate)}
        hurt = {rank for rank, fate in enumerate(described) if fate != "whole"}
        try:
            check_readers(run, held, hurt, is_size_known="whole" in described)
        except RunStoreError:  # nothing is known of any rank
            assert not held


def check_readers(run: Path, held: set[int], hurt: set[int], *, is_size_known: bool) -> None:
    opened = esper.open_run(str(run))
    health = health_as_json(read_health(run))
    lights = {"nan": health["head_nan_latch"], "inf": health["head_inf_latch"]}
    assert all(
        opened.latches[light][head] is lights[light][head] for head, light in LIGHTS.values()
    )
    for head, light in (LIGHTS[rank] for rank in held):
        assert lights[light][head] is True
    alone = [{"rank": 0, "doubt": opened.doubt, "damaged_events": 0}]  # no store tells of others
    rows = health["ranks"] or alone
    named = {one["rank"] for one in rows if one["doubt"] or one["damaged_events"]}
    assert named <= hurt
    if is_size_known:  # without any store that says it, the number of ranks is not known
        for head, light in (LIGHTS[rank] for rank in hurt - named):
            assert lights[light][head] is True  # what was cut off was no event
    dark = {state for one in lights.values() for state in one.values()} - {True}
    assert dark == ({None} if named else {False})
    assert (opened.doubt is not None) == bool(named)
    (summary,) = list_runs(run.parent)
    assert (summary.doubt.lights is not None) == bool(named)
    assert {head for head, light in (LIGHTS[rank] for rank in held) if light == "nan"} <= {
        *summary.nan_heads
    }
    is_inf_on = lights["inf"]["op"] is True
    if is_inf_on or not named:
        assert print_health(run.parent, str(run), as_json=True, fail_on="inf") == int(is_inf_on)
    else:  # the command turns it into exit code 2
        with pytest.raises(RunStoreError, match="is unknown: "):
            print_health(run.parent, str(run), as_json=True, fail_on="inf")


@given(st.permutations(range(WORLD)), st.sampled_from(["nothing", "older", "cut"]))
@settings(max_examples=15)
def test_stores_that_arrive_later_are_read_while_a_reader_is_open(runs, order, at_first):
    older, whole = runs
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / whole.name
        run.mkdir()
        for rank in range(WORLD):
            source = rank_folder(older if at_first == "older" else whole, rank)
            if at_first != "nothing":
                arrive(source, rank_folder(run, rank))
            if at_first == "cut":
                with (rank_folder(run, rank) / STORE).open("r+b") as store:
                    store.truncate(5_000)
        follower = RunFollower(run)
        follower.catch_up()
        for number, rank in enumerate(order, start=1):
            arrive(rank_folder(whole, rank), rank_folder(run, rank))
            frame = caught_up(follower)
            tamiyo = frame.snapshot.tamiyo
            for head, light in (LIGHTS[one] for one in order[:number]):
                assert tamiyo.latch(light)[head]
            assert (frame.completeness.doubt is None) == (number == WORLD)
        assert {(one.head, one.rank) for one in tamiyo.first} == {
            (head, rank) for rank, (head, _) in LIGHTS.items()
        }
        assert frame.status.kind == "FINISHED"
        follower.close()


def arrive(source: Path, folder: Path) -> None:
    """Copy the files of a rank as a synchronising program does: each under another name first."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files_of(source):
        partial = folder / f".{path.name}.partial"
        shutil.copy(path, partial)
        partial.replace(folder / path.name)


def caught_up(follower: RunFollower):
    frame = follower.poll(time.time())
    while frame.is_behind:
        frame = follower.poll(time.time())
    return frame

"""`esper.watch` in several processes that train together, on CPU with gloo.

All trainings of a file are made in one start of the processes, which takes most of the time.
"""

import os
import re
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch

import esper
from esper.karn.store.rank_folders import Rank, rank_folders
from esper.karn.store.run_directory import run_directories
from esper.recording import ranks
from esper.recording.ranks import Meeting, RanksError, own_rank

SCRIPT = Path(__file__).parents[1] / "support" / "ranked_training.py"


def environment(runs, **values):
    own = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    return own | {"ESPER_RUN_DIR": str(runs), "OMP_NUM_THREADS": "1"} | values


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of runs after all trainings under torchrun, and their output."""
    pytest.importorskip("accelerate")
    runs = tmp_path_factory.mktemp("ranks") / "runs"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*command, str(SCRIPT), "all"],
        env=environment(runs),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return runs, result


@pytest.fixture
def run_of(trained):
    """Return a function that opens the run with a name."""
    return lambda name: esper.open_run(name, run_dir=trained[0])


def test_each_training_has_one_run_with_a_store_for_each_rank(trained):
    runs, result = trained
    assert "weights" not in result.stderr, result.stderr
    assert "AssertionError" not in result.stderr, result.stderr

    found = run_directories(runs)
    names = [
        *("accelerate", "closures-skip", "ddp-halt", "ddp-report", "ddp-skip", "fsdp-report"),
        *("fsdp-skip", "uneven"),
    ]
    assert sorted(re.sub(r"^\d{8}-\d{6}-", "", run.name) for run in found) == names, result.stderr
    assert all(list(rank_folders(run)) == [1] for run in found)


@pytest.mark.parametrize("name", ["ddp-report", "accelerate"])
def test_a_fault_is_one_incident_of_the_rank_in_which_it_began(run_of, name):
    run = run_of(name)
    assert run.status == "FINISHED"
    assert run.doubt is None
    assert run.latches["nan"]["shared"]
    assert run.first[0].rank == 1
    assert (run.first[0].quantity, run.first[0].update) == ("observations", 2)
    (incident,) = run.snapshot.incidents
    assert (incident.rank, incident.also_in) == (1, (0,))
    assert incident.origin is not None, incident.no_origin
    assert incident.origin.code == "observations[2, 1] = math.nan"
    assert (run.path / incident.path / "capsule.pt").is_file()
    (row,) = run.incidents
    assert (row["rank"], row["also_in"]) == (1, [0])
    assert [one.status.kind for one in run.ranks] == ["FINISHED", "FINISHED"]
    assert [one.update for one in run.ranks] == [3, 3]  # updates end at the same step


@pytest.mark.parametrize("name", ["fsdp-report", "fsdp-skip"])
def test_a_shard_is_looked_at_where_it_lies(run_of, name):
    run = run_of(name)
    first = run.first[0]
    assert (first.rank, first.head, first.kind) == (1, "right", "+inf")
    assert (first.quantity, first.part) == ("gradient", "2.bias")
    assert not run.latches["inf"]["left"]


@pytest.mark.parametrize("name", ["ddp-skip", "fsdp-skip"])
def test_all_ranks_leave_out_the_same_step(run_of, name):
    run = run_of(name)
    assert run.snapshot.interventions.updates_skipped == 1
    skipped = [esper.open_run(folder).history() for folder in (run.path, run.path / "ranks/001")]
    assert [[row["minibatches_skipped"] for row in rows] for rows in skipped] == [[0, 1, 0]] * 2


def test_all_ranks_end_at_the_same_step(trained, run_of):
    run = run_of("ddp-halt")
    assert run.status == "HALTED"
    assert [one.status.kind for one in run.ranks] == ["HALTED", "HALTED"]
    assert "exitcode  : 3 " in trained[1].stderr  # as torchrun says; it kills what is left


def test_a_rank_that_is_killed_is_named(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "killed"],
            env=environment(tmp_path, RANK=str(rank), **address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert processes[0].stdout.readline() == "killed\n"
        processes[1].wait(timeout=60)
        run = esper.open_run("killed", run_dir=tmp_path)
        assert run.status == "DEGRADED"
        gone = next(one for one in run.ranks if one.rank == 1)
        assert gone.status.kind == "DEAD"
        assert gone.pid == processes[1].pid
        assert run.first[0].rank == 1  # what it announced is not lost
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
    assert esper.open_run("killed", run_dir=tmp_path).status == "DEAD"
    assert len(run_directories(tmp_path)) == 1


def test_ranks_that_nothing_connects_are_refused(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert own_rank() == Rank(1, 2, 1)
    with pytest.raises(RanksError, match=r"call esper.watch after .*init_process_group"):
        Meeting(own_rank())


def test_processes_without_an_address_train_alone(monkeypatch):
    for name in ("MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert own_rank().is_alone


@pytest.fixture
def meetings(monkeypatch):
    """The meetings of two ranks, in one process."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(ranks, "_store", lambda _: store)
    monkeypatch.setattr(ranks, "_LEAVE_S", 0.05)
    monkeypatch.setattr(ranks, "WAIT_S", 0.05)
    made = []
    for rank in range(2):
        monkeypatch.setattr(ranks, "_numbers", count())  # of another process
        made.append(Meeting(Rank(rank, 2, rank)))
    return made


def test_the_first_rank_to_come_creates_the_run(meetings, tmp_path):
    first, second = meetings[::-1]
    assert first.run(lambda: tmp_path / "run") == tmp_path / "run"
    assert second.run(pytest.fail) == tmp_path / "run"


def test_a_run_that_cannot_be_created_is_an_error_in_all_ranks(meetings):
    def create():
        raise PermissionError

    with pytest.raises(PermissionError):
        meetings[0].run(create)
    with pytest.raises(RanksError, match="see its error"):
        meetings[1].run(pytest.fail)


def test_a_decision_by_all_ranks_needs_all_of_them(meetings):
    with pytest.raises(RanksError, match="with this option in all 2 ranks"):
        meetings[0].wait_for_all("skip")
    meetings[1].wait_for_all("skip")
    with pytest.raises(RanksError):
        meetings[1].wait_for_all("halt")


def test_ranks_go_on_after_the_last_update_of_any(meetings):
    assert meetings[0].latest(2) == 2  # the other does not come
    assert meetings[1].latest(5) == 5
    assert meetings[0].latest(2) == 5

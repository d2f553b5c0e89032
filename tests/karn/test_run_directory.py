"""Runs get unique ids and are found by id, prefix or path."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esper.karn.store.run_directory import LONGEST_STORE_PATH, is_of_the_future
from esper.karn.store.run_store import (
    RunNotFoundError,
    RunPathError,
    RunWriter,
    create_run,
    default_run_dir,
    find_run,
    run_directories,
)
from esper.leyline.telemetry import Notice

MOMENT = 1_795_375_800.0  # 2026-11-22 19:30:00 UTC


@pytest.fixture
def three_runs(tmp_path):
    names = ("20261120-080000-drill", "20261121-080000-plain", "20261122-080000-drill")
    for name in names:
        (tmp_path / name).mkdir()
    return tmp_path


def assert_one_sentence(caught):
    assert "\n" not in str(caught.value)


def test_an_id_is_the_moment_and_the_name(tmp_path):
    run = create_run(tmp_path / "new" / "runs", "first try", now=MOMENT)

    assert run == tmp_path / "new" / "runs" / "20261122-193000-first-try"
    assert (run / "checkpoints").is_dir()


@pytest.mark.parametrize(
    ("name", "slug"), [("", ""), ("../../etc", "-etc"), ("..", ""), ("a/b c", "-a-b-c")]
)
def test_a_name_cannot_lead_out_of_the_folder(tmp_path, name, slug):
    run = create_run(tmp_path, name, now=MOMENT)

    assert run.parent == tmp_path
    assert run.name == f"20261122-193000{slug}"


def test_runs_created_at_once_get_different_ids(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: create_run(tmp_path, "x", now=MOMENT), range(32)))

    assert len(set(runs)) == 32
    assert set(run_directories(tmp_path)) == set(runs)


def test_the_newest_run_is_the_default(three_runs):
    assert find_run(three_runs).name == "20261122-080000-drill"


def test_of_runs_of_one_second_the_last_created_is_the_newest(tmp_path):
    runs = [create_run(tmp_path, "x", now=MOMENT) for _ in range(12)]

    assert find_run(tmp_path) == runs[-1]


def test_a_run_is_found_by_id_prefix_and_path(three_runs, tmp_path):
    wanted = three_runs / "20261121-080000-plain"

    assert find_run(three_runs, "20261121-080000-plain") == wanted
    assert find_run(three_runs, "20261121") == wanted
    assert find_run(tmp_path / "elsewhere", str(wanted)) == wanted


def test_an_id_that_another_id_begins_with_is_found(tmp_path):
    first, second = (create_run(tmp_path, "x", now=MOMENT) for _ in range(2))

    assert second.name.startswith(first.name)
    assert find_run(tmp_path, first.name) == first


def test_a_run_is_found_by_the_path_of_its_store(tmp_path):
    copied = tmp_path / "copied from elsewhere"
    copied.mkdir()
    (copied / "run.sqlite").touch()

    assert find_run(tmp_path / "runs", str(copied)) == copied
    assert find_run(tmp_path / "runs", str(copied / "run.sqlite")) == copied


def test_an_ambiguous_prefix_names_the_candidates(three_runs):
    with pytest.raises(
        RunNotFoundError, match=r"3 runs \(20261120-080000-drill, .*, 20261122-080000-drill\)"
    ) as caught:
        find_run(three_runs, "2026112")
    assert_one_sentence(caught)


def test_a_run_is_found_by_the_name_it_was_given_unless_another_has_it(tmp_path):
    night = create_run(tmp_path, "night run", now=1e9)
    assert find_run(tmp_path, "night-run") == night
    create_run(tmp_path, "night run", now=2e9)
    with pytest.raises(RunNotFoundError, match=r"is the name of 2 runs .*: give an id"):
        find_run(tmp_path, "night-run")


def test_a_path_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunNotFoundError, match=r"is not a run: .* holds a run\.sqlite"):
        find_run(tmp_path, str(tmp_path))


def test_many_candidates_are_counted(tmp_path):
    for _ in range(9):
        create_run(tmp_path, "x", now=MOMENT)
    with pytest.raises(RunNotFoundError, match="and 4 more"):
        find_run(tmp_path, "2026")


@pytest.mark.parametrize("reference", ["dril", "20261121-080000-plane"])
def test_an_unknown_run_is_answered_with_those_near_to_it(three_runs, reference):
    near = "20261120-080000-drill" if reference == "dril" else "20261121-080000-plain"
    with pytest.raises(RunNotFoundError, match=f"did you mean .*{near}") as caught:
        find_run(three_runs, reference)
    assert_one_sentence(caught)


def test_a_run_like_no_other_is_answered_with_the_newest(three_runs):
    with pytest.raises(RunNotFoundError, match="the newest there is 20261122-080000-drill"):
        find_run(three_runs, "zzz")


@pytest.mark.parametrize("reference", [None, "x", ""])
@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_no_run_at_all_is_one_sentence(tmp_path, folder, reference):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunNotFoundError) as caught:
        find_run(tmp_path / folder, reference)
    assert_one_sentence(caught)


def test_other_things_in_the_folder_are_not_runs(three_runs):
    (three_runs / "notes").mkdir()
    (three_runs / "20261123-080000-file").touch()

    assert len(run_directories(three_runs)) == 3


def test_a_run_of_a_clock_that_was_ahead_is_not_the_newest(tmp_path):
    ahead = create_run(tmp_path, "ahead", now=MOMENT + 86_400)
    older, newer = (create_run(tmp_path, "r", now=MOMENT - ago) for ago in (60, 0))
    assert run_directories(tmp_path, now=MOMENT) == [ahead, older, newer]
    assert is_of_the_future(ahead, now=MOMENT)
    assert not is_of_the_future(newer, now=MOMENT)
    assert not is_of_the_future(create_run(tmp_path, "r", now=MOMENT + 30), now=MOMENT)
    assert run_directories(tmp_path, now=MOMENT + 90_000)[-1] == ahead


def test_a_path_that_sqlite_cannot_open_is_refused_before_anything_is_made(tmp_path):
    deep = tmp_path / ("d" * 150) / ("e" * 150)
    room = LONGEST_STORE_PATH - len(str(deep.absolute())) - len("/x-0000/run.sqlite") - 16
    run = create_run(deep, "n" * room)
    with RunWriter(run) as writer:
        writer.emit(Notice(level="info", text="hello"), durable=True)
    assert (writer.events_lost, writer.last_error) == (0, None)
    with pytest.raises(
        RunPathError, match="at most 500 are possible: choose a --run-dir"
    ) as caught:
        create_run(deep / "f", "n" * room)
    assert_one_sentence(caught)
    assert not (deep / "f").exists()


def test_the_folder_of_runs_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("ESPER_RUN_DIR", raising=False)
    assert default_run_dir() == Path("runs")
    monkeypatch.setenv("ESPER_RUN_DIR", "/data/runs")
    assert default_run_dir() == Path("/data/runs")

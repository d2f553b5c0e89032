"""Where ranks have their stores, and which rank a process is."""

from pathlib import Path

import pytest

from esper.karn.store.rank_folders import (
    Rank,
    create_rank_folder,
    rank_folder,
    rank_folders,
    rank_of_environment,
    run_of_rank_folder,
)


def test_rank_0_has_the_run_s_own_folder(tmp_path: Path) -> None:
    assert rank_folder(tmp_path, 0) == tmp_path
    assert rank_folders(tmp_path) == {}


def test_each_other_rank_has_a_folder_inside_the_run(tmp_path: Path) -> None:
    run = tmp_path / "20261128-000000-a"
    folders = {rank: create_rank_folder(run, rank) for rank in (12, 3, 1000)}
    assert folders[3] == run / "ranks" / "003"
    assert (folders[3] / "checkpoints").is_dir()
    assert rank_folders(run) == {rank: folders[rank] for rank in (3, 12, 1000)}
    assert create_rank_folder(run, 3) == folders[3]
    assert run_of_rank_folder(folders[12]) == (run, 12)
    assert run_of_rank_folder(run) is None


def test_what_is_no_rank_s_folder_is_left_out(tmp_path: Path) -> None:
    create_rank_folder(tmp_path, 1)
    (tmp_path / "ranks" / "notes").mkdir()
    (tmp_path / "ranks" / "002").write_text("a file")
    (tmp_path / "ranks" / "000").mkdir()
    assert list(rank_folders(tmp_path)) == [1]


def test_the_rank_comes_from_torchrun() -> None:
    given = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert rank_of_environment(given) == Rank(5, 8, 1)
    assert not rank_of_environment(given).is_alone


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"RANK": "1"},
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
    ],
)
def test_a_process_without_a_rank_is_alone(given: dict[str, str]) -> None:
    assert rank_of_environment(given) == Rank()

"""Exports, frames and queries of a run with one store per rank."""

import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import esper
from esper.karn.export.exporting import export, tables_of
from esper.karn.store.rank_folders import create_rank_folder, rank_folder
from esper.karn.store.reading.queries import QueryError, query_run
from esper.karn.store.run_store import RunWriter, create_run

WORLD = 3


@pytest.fixture
def run(tmp_path, payloads):
    """A run of three ranks; the loss of each differs, and `op` of rank 2 goes NaN in update 2."""
    made = create_run(tmp_path / "runs", "ranks")
    for rank in range(WORLD):
        with RunWriter(create_rank_folder(made, rank)) as writer:
            writer.emit(payloads.start(run_id=made.name, rank=rank, world_size=WORLD))
            writer.emit(payloads.update(1, policy_loss=float(rank)))
            broken = payloads.broken_update(2, "op", "nan")
            writer.emit(broken if rank == 2 else payloads.update(2))
            writer.emit(payloads.finish(update=2))
    return made


def exported(run, form, out, **options):
    reports = []
    tables = tables_of(form, str(out), ())
    return export([run], form, str(out), tables, reports.append, output=sys.stdout, **options), (
        reports
    )


def test_rows_of_all_ranks_have_the_number_of_their_rank(run, tmp_path):
    assert exported(run, "parquet", tmp_path / "out") == (True, [])
    tables = {path.stem: pl.read_parquet(path) for path in (tmp_path / "out").iterdir()}
    losses = tables["figures"].filter(quantity="policy_loss", update=1)
    assert losses.select("rank", "value").rows() == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert set(tables["sightings"]["rank"]) == {2}
    on = tables["latches"].filter(state="on")
    assert on.select("group", "light", "rank").rows() == [("op", "nan", 2)]
    assert set(tables["evidence"]["rank"]) == {2}
    assert "rank" not in tables["settings"].columns
    frame = esper.open_run(str(run)).to_polars()
    assert frame.equals(tables["figures"])


def test_a_run_of_one_process_has_no_rank(tmp_path, payloads):
    run = create_run(tmp_path / "runs", "alone")
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
        writer.emit(payloads.finish(update=1))
    assert esper.open_run(str(run)).to_polars()["rank"].null_count() > 0
    assert query_run(run, "SELECT 7 AS seven", 9).columns == ("seven",)


def test_tensorboard_shows_each_rank_and_the_export_can_be_replaced(run, tmp_path):
    for force in (False, True):
        assert exported(run, "tensorboard", tmp_path / "out", force=force) == (True, [])
    for rank, folder in enumerate(("", "rank-1", "rank-2")):
        events = EventAccumulator(str(tmp_path / "out" / run.name / folder))
        events.Reload()
        assert events.Scalars("run/policy_loss")[0].value == rank


def test_a_query_reads_the_store_of_each_rank(run):
    sql = "SELECT update_index, policy_loss FROM updates WHERE update_index = 1"
    result = query_run(run, sql, 100)
    assert result.columns == ("rank", "update_index", "policy_loss")
    assert result.rows == [(0, 1, 0.0), (1, 1, 1.0), (2, 1, 2.0)]
    assert (result.is_cut, result.missing) == (False, ())
    cut = query_run(run, sql, 2)
    assert (len(cut.rows), cut.is_cut) == (2, True)
    assert not query_run(run, sql, 3).is_cut
    with pytest.raises(QueryError, match="no such table"):
        query_run(run, "SELECT * FROM nowhere", 1)


@pytest.mark.parametrize("lost", range(WORLD))
def test_a_rank_that_cannot_be_read_is_named(run: Path, tmp_path: Path, lost: int) -> None:
    store = rank_folder(run, lost) / "run.sqlite"
    store.write_bytes(b"no store")
    result = query_run(run, "SELECT 1 AS one", 100)
    assert [row[0] for row in result.rows] == [rank for rank in range(WORLD) if rank != lost]
    (sentence,) = result.missing
    assert sentence.startswith(f"rank {lost} is left out: ")
    is_whole, (report,) = exported(run, "csv", tmp_path / "out")
    assert not is_whole
    assert f"rank {lost}" in report or lost == 0
    rows = pl.read_csv(tmp_path / "out" / "figures.csv")
    assert set(rows["rank"]) == {rank for rank in range(WORLD) if rank != lost}


def test_a_rank_without_a_folder_is_named(run):
    shutil.rmtree(rank_folder(run, 1))
    result = query_run(run, "SELECT 1 AS one", 100)
    assert result.rows == [(0, 1), (2, 1)]
    assert result.missing == ("rank 1 is left out: it has no store",)

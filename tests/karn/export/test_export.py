"""Exported tables, read back with polars, pandas, DuckDB and TensorBoard."""

import csv
import errno
import io
import json
import math
import re
import shlex
import shutil
import sqlite3
import struct
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import esper
from esper.karn.export.columns import CLASSES, TABLES
from esper.karn.export.exporting import export, tables_of
from esper.karn.export.rows import RunRows
from esper.karn.export.writers import ExportError, TensorBoardFiles, check_library
from esper.karn.store.errors import RunStoreError
from esper.karn.store.run_store import RunWriter, create_run
from esper.karn.store.tables.thinning import thin
from esper.leyline.errors import EsperError
from esper.leyline.files.tensorboard_files import LARGEST_FIGURE

VALUES = {"usual": 0.1, "zero": -0.0, "nan": math.nan, "up": math.inf, "down": -math.inf,
          "tiny": 1e-300, "long": 1 / 3, "huge": -1e300}  # fmt: skip
CONFIG = {"learning_rate": 0.003, "task": "mnist1d"}
CLASS_OF = {"nan": "nan", "up": "+inf", "down": "-inf"}


@pytest.fixture
def run(tmp_path, payloads):
    """A finished run: update 2 is trained again, `op` went Inf, and a loop logged odd figures."""
    made = create_run(tmp_path / "runs", "test")
    with RunWriter(made) as writer:
        writer.emit(payloads.start(config=CONFIG))
        for update, loss in ((1, 0.1), (2, 0.2)):
            end_update(writer, payloads, update, policy_loss=loss)
        writer.emit(payloads.start(resumed_from_update=1, config=CONFIG))
        seen = [payloads.sighting(head="op", quantity="logits", kind="+inf")]
        end_update(
            writer, payloads, 2, policy_loss=0.3, logged=VALUES, head_nonfinite=seen,
            head_inf_detected={"op": True},
        )  # fmt: skip
        writer.emit(payloads.step(update=3))
        writer.emit(payloads.finish(update=2, episodes_done=4))
    return made


def end_update(writer, payloads, update, **figures):
    writer.emit(payloads.step(update=update))
    writer.emit(payloads.episodes(update))
    writer.emit(payloads.update(update, **figures))


def exported(runs, form, out, tables=(), **options):
    reports = []
    chosen = tables_of(form, str(out), tables)
    is_whole = export(runs, form, str(out), chosen, reports.append, output=sys.stdout, **options)
    return is_whole, reports


def bits(value):
    return struct.pack("<d", value) if not math.isnan(value) else "nan"


def assert_logged(values, classes):
    """Check values and classes by quantity against what was logged."""
    assert values.keys() == VALUES.keys()
    for name, value in VALUES.items():
        assert bits(float(values[name])) == bits(value), name
        assert classes[name] == CLASS_OF.get(name, "finite")


def test_parquet_in_polars_pandas_and_duckdb(run, tmp_path):
    assert exported([run], "parquet", tmp_path / "out") == (True, [])
    assert sorted(one.stem for one in (tmp_path / "out").iterdir()) == sorted(TABLES)
    path = str(tmp_path / "out" / "figures.parquet")
    frame = pl.read_parquet(path)
    assert frame.columns == list(TABLES["figures"])
    logged = frame.filter(pl.col("group") == "logged")
    assert_logged(dict(logged.select("quantity", "value").iter_rows()),
                  dict(logged.select("quantity", "class").iter_rows()))  # fmt: skip
    assert logged["value"].null_count() == 0  # a NaN is a value, and no missing one
    frame = pd.read_parquet(path).query("group == 'logged'").set_index("quantity")
    assert_logged(dict(frame["value"]), dict(frame["class"]))
    rows = duckdb.sql(f"SELECT quantity, value, class FROM '{path}' WHERE \"group\" = 'logged'")
    found = rows.fetchall()
    assert_logged({one[0]: one[1] for one in found}, {one[0]: one[2] for one in found})


def test_csv_in_polars_pandas_and_duckdb(run, tmp_path):
    assert exported([run], "csv", tmp_path / "out") == (True, [])
    path = str(tmp_path / "out" / "figures.csv")
    frame = pl.read_csv(path).filter(pl.col("group") == "logged")
    assert_logged(dict(frame.select("quantity", "value").iter_rows()),
                  dict(frame.select("quantity", "class").iter_rows()))  # fmt: skip
    exactly = {"float_precision": "round_trip"} if pd.__version__ < "3" else {}
    frame = pd.read_csv(path, keep_default_na=False, **exactly)
    frame = frame.query("group == 'logged'").set_index("quantity")
    assert_logged(dict(frame["value"]), dict(frame["class"]))
    rows = duckdb.sql(
        f"SELECT quantity, value::DOUBLE, class FROM read_csv('{path}') WHERE \"group\" = 'logged'"
    ).fetchall()
    assert_logged({one[0]: one[1] for one in rows}, {one[0]: one[2] for one in rows})


def test_json_lines_in_pandas_and_duckdb(run, tmp_path):
    def refuse(word):
        raise AssertionError(f"a bare {word}")

    path = tmp_path / "out.jsonl"
    assert exported([run], "jsonl", path) == (True, [])
    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert {one["table"] for one in lines} == set(TABLES)
    for one in lines:
        assert list(one) == ["table", *TABLES[one["table"]]]
    logged = [one for one in lines if one.get("group") == "logged"]
    assert_logged({one["quantity"]: one["value"] for one in logged},
                  {one["quantity"]: one["class"] for one in logged})  # fmt: skip
    frame = pd.read_json(path, lines=True, dtype=False, precise_float=True)
    frame = frame.query("group == 'logged'").set_index("quantity")
    for name in ("nan", "up", "down"):
        assert bits(float(frame["value"][name])) == bits(VALUES[name])
    rows = duckdb.sql(
        "SELECT quantity, value::VARCHAR::DOUBLE, class FROM read_json("
        f"'{path}', columns={{quantity: 'VARCHAR', value: 'VARCHAR', class: 'VARCHAR', "
        "\"group\": 'VARCHAR'}) WHERE \"group\" = 'logged'"
    ).fetchall()
    assert {one[0] for one in rows if one[2] != "finite"} == set(CLASS_OF)
    assert {one[0] for one in rows if math.isfinite(one[1])} == VALUES.keys() - CLASS_OF.keys()


def test_tensorboard_in_its_own_reader(run, tmp_path, capfd):
    assert exported([run], "tensorboard", tmp_path / "out") == (True, [])
    events = EventAccumulator(str(tmp_path / "out" / run.name))
    events.Reload()
    for name, value in VALUES.items():
        (one,) = events.Scalars(f"logged/{name}")
        assert one.step == 2
        # Event files have float32, in which a finite value must not become an infinity.
        nearest = -LARGEST_FIGURE if name == "huge" else value
        assert bits(one.value) == bits(struct.unpack("<f", struct.pack("<f", nearest))[0])
    assert "NaN" not in capfd.readouterr().err  # no warning for each


def test_an_update_that_was_trained_again_counts_once(run, tmp_path):
    exported([run], "parquet", tmp_path / "out")
    frame = pl.read_parquet(tmp_path / "out" / "figures.parquet")
    loss = frame.filter(pl.col("quantity") == "policy_loss")
    assert loss.select("update", "value").rows() == [(1, 0.1), (2, 0.3)]
    hosts = pl.read_parquet(tmp_path / "out" / "hosts.parquet")
    accuracy = hosts.filter((pl.col("quantity") == "accuracy") & (pl.col("host") == 0))
    assert accuracy["update"].to_list() == [1, 2, 3]  # the last is in progress
    score = hosts.filter((pl.col("quantity") == "score") & (pl.col("host") == 0))
    assert score["update"].to_list() == [1, 2]
    assert score["step"].null_count() == 2


def test_latches_evidence_sightings_and_settings(run, tmp_path):
    exported([run], "parquet", tmp_path / "out")
    tables = {name: pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in TABLES}
    on = tables["latches"].filter(pl.col("state") == "on").rows(named=True)
    assert [(one["group"], one["light"], one["quantity"], one["kind"]) for one in on] == [
        ("op", "inf", "logits", "+inf")
    ]
    assert set(tables["latches"]["state"]) == {"on", "off"}
    assert tables["evidence"].select("group", "kind", "first_update").rows() == [("op", "+inf", 2)]
    assert tables["sightings"].select("group", "update").rows() == [("op", 2)]
    named = dict(tables["settings"].select("setting", "value").iter_rows())
    assert named == {"learning_rate": "0.003", "task": '"mnist1d"'}


def test_several_runs_are_one_data_set_and_missing_data_is_reported(run, tmp_path, payloads):
    killed = create_run(tmp_path / "runs", "killed")
    with RunWriter(killed) as writer:
        writer.emit(payloads.start())
        end_update(writer, payloads, 1)
    broken = create_run(tmp_path / "runs", "broken")
    (broken / "run.sqlite").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    is_whole, reports = exported([run, killed, broken], "parquet", tmp_path / "out")
    assert not is_whole
    assert len(reports) == 1
    assert reports[0].startswith(f"{broken.name} is left out: ")
    frame = pl.read_parquet(tmp_path / "out" / "figures.parquet")
    assert set(frame["run"]) == {run.name, killed.name}
    with pytest.raises(RunStoreError):
        exported([broken], "parquet", tmp_path / "other")
    assert {one.name for one in tmp_path.iterdir()} == {"runs", "out"}  # nothing half-written


def test_runs_with_the_same_id_are_not_mixed(run, tmp_path):
    copy = tmp_path / "other" / run.name
    shutil.copytree(run, copy)
    with pytest.raises(ExportError, match="have the same id"):
        exported([run, copy], "csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_many_runs_in_tensorboard_files_keep_one_open(tmp_path, payloads):
    runs = []
    for number in range(4):
        runs.append(create_run(tmp_path / "runs", f"number-{number}"))
        with RunWriter(runs[-1]) as writer:
            writer.emit(payloads.start())
            end_update(writer, payloads, 1)
    counts = []
    with TensorBoardFiles(tmp_path) as files:
        for one in runs:
            for batch in RunRows(one).batches(["figures"]):
                files.write(batch)
            counts.append(sum("tfevents" in own.path for own in psutil.Process().open_files()))
    assert counts == [1, 1, 1, 1]
    for one in runs:
        events = EventAccumulator(str(tmp_path / one.name))
        events.Reload()
        assert [seen.step for seen in events.Scalars("run/policy_loss")] == [1]


def test_a_damaged_event_is_left_out_and_reported(run, tmp_path):
    with sqlite3.connect(run / "run.sqlite") as connection:
        connection.execute(
            "UPDATE events SET payload = x'00' WHERE kind = 'ppo_update' AND update_index = 1"
        )
    connection.close()
    is_whole, reports = exported([run], "csv", tmp_path / "out")
    assert not is_whole
    assert "damaged" in reports[0]
    frame = pl.read_csv(tmp_path / "out" / "figures.csv")
    assert set(frame["update"]) == {2}
    latches = pl.read_csv(tmp_path / "out" / "latches.csv")
    assert set(latches["state"]) == {"on", "unknown"}


def test_steps_removed_to_limit_the_store_size_are_reported(tmp_path, payloads):
    made = create_run(tmp_path / "runs", "long")
    with RunWriter(made) as writer:
        writer.emit(payloads.start())
        for update in range(1, 7):
            end_update(writer, payloads, update)
    with closing(sqlite3.connect(made / "run.sqlite")) as connection, connection:
        assert thin(connection, events=10, kept=3)
    assert exported([made], "csv", tmp_path / "figures", ["figures"]) == (True, [])
    is_whole, reports = exported([made], "csv", tmp_path / "hosts", ["hosts"])
    assert not is_whole
    assert re.search(r"oldest \d+ steps and decisions were removed", reports[0])
    hosts = pl.read_csv(tmp_path / "hosts" / "hosts.csv")
    assert hosts.filter(pl.col("quantity") == "score")["update"].n_unique() == 6
    assert hosts.filter(pl.col("quantity") == "accuracy")["update"].min() > 1


def test_the_commands_and_the_code_of_the_guide_work(run, tmp_path, monkeypatch, capfd):
    from esper.cli import main

    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[3] / "docs" / "guides" / "export.md").read_text()
    commands = re.findall(r"^uv run esper (.*?)(?: \|.*)?$", guide, re.M)
    assert len(commands) == 6
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main([run.name if one == "RUN" else one for one in shlex.split(command)])
        assert not end.value.code, (command, capfd.readouterr().err)
    names = {"esper": esper}
    for code in re.findall(r"^```python\n(.*?)^```", guide, re.M | re.S):
        exec(code.replace('"RUN"', repr(run.name)), names)


def test_standard_output_has_one_table_of_csv_or_all_of_json_lines(run, capfdbinary):
    exported([run], "csv", "-", ["settings"])
    assert (
        capfdbinary.readouterr().out
        == (
            f'run,setting,value\n{run.name},learning_rate,0.003\n{run.name},task,"""mnist1d"""\n'
        ).encode()
    )
    exported([run], "jsonl", "-", ["settings", "latches"])
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert {one["table"] for one in lines} == {"settings", "latches"}


@pytest.mark.parametrize(
    ("form", "out", "tables", "words"),
    [
        ("parquet", "-", [], "must be a folder"),
        ("csv", "-", ["figures", "hosts"], "one table"),
        ("tensorboard", "out", ["hosts"], "only export the table figures"),
        ("csv", "out", ["figure"], "there is no table 'figure'"),
        ("csv", "full", [], "exists"),
        ("jsonl", "full", [], "is a folder"),
        ("csv", "absent/out", [], "there is no folder"),
    ],
)
def test_an_impossible_export_has_an_error_of_one_sentence(
    run, tmp_path, monkeypatch, form, out, tables, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match=words):
        exported([run], form, out, tables)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("form", ["csv", "parquet", "tensorboard", "jsonl"])
def test_force_replaces_only_exports(run, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        exported([run], form, tmp_path / "out", force=True)
    before = sorted(tmp_path.rglob("*"))
    store = run / "run.sqlite"
    (tmp_path / "link").symlink_to("out")
    for place in (store, "/dev/null") if form == "jsonl" else (run.parent, run, "link"):
        with pytest.raises(ExportError, match="--force does not replace"):
            exported([run], form, place, force=True)
    (tmp_path / "link").unlink()
    assert sorted(tmp_path.rglob("*")) == before
    assert store.read_bytes().startswith(b"SQLite format 3")
    assert not Path("/dev/null").is_file()


def test_force_replaces_and_an_empty_folder_is_used(run, tmp_path):
    (tmp_path / "out").mkdir()
    exported([run], "csv", tmp_path / "out", ["figures"])
    exported([run], "csv", tmp_path / "out", ["settings"], force=True)
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["settings.csv"]


def test_the_error_for_a_missing_library_has_the_install_command(monkeypatch):
    monkeypatch.setattr("esper.karn.export.writers.find_spec", lambda _name: None)
    with pytest.raises(ExportError, match=r"needs pyarrow; install it with: .*parquet"):
        check_library("parquet")
    check_library("csv")


def test_frames_of_an_opened_run(run):
    opened = esper.open_run(run)
    frame = opened.to_polars().filter(pl.col("group") == "logged")
    assert_logged(dict(frame.select("quantity", "value").iter_rows()),
                  dict(frame.select("quantity", "class").iter_rows()))  # fmt: skip
    frame = opened.to_pandas().query("group == 'logged'").set_index("quantity")
    assert_logged(dict(frame["value"]), dict(frame["class"]))
    for table, columns in TABLES.items():
        assert opened.to_polars(table).columns == list(columns)
        assert list(opened.to_pandas(table).columns) == list(columns)
    assert opened.to_pandas("latches")["update"].isna().sum() > 0
    with pytest.raises(EsperError, match="there is no table 'x'"):
        opened.to_polars("x")


FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -0.0])


@given(logged=st.dictionaries(st.text(max_size=8), FLOATS, max_size=8))
@settings(max_examples=20, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_every_format_keeps_values_bit_for_bit(tmp_path_factory, payloads, logged):
    folder = tmp_path_factory.mktemp("law")
    made = create_run(folder, "law")
    with RunWriter(made) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1, logged=logged))
    for form in ("csv", "jsonl", "parquet"):
        exported([made], form, folder / form, ["figures"])
    with (folder / "csv" / "figures.csv").open(newline="", encoding="utf-8") as file:
        tables = [list(csv.DictReader(file))]
    tables.append([json.loads(one) for one in (folder / "jsonl").read_bytes().splitlines()])
    tables.append(pl.read_parquet(folder / "parquet" / "figures.parquet").rows(named=True))
    for rows in tables:
        found = {row["quantity"]: row for row in rows if row["group"] == "logged"}
        assert found.keys() == logged.keys()
        for name, value in logged.items():
            assert bits(float(found[name]["value"])) == bits(value)
            kind = "finite" if math.isfinite(value) else "nan" if math.isnan(value) else None
            assert found[name]["class"] == (kind or ("+inf" if value > 0 else "-inf"))
            assert found[name]["class"] in CLASSES


def test_a_live_run_is_exported_to_its_last_event(tmp_path, payloads):
    made = create_run(tmp_path, "live")
    with RunWriter(made) as writer:
        writer.emit(payloads.start())
        end_update(writer, payloads, 1)
        writer.flush()
        rows = RunRows(made)
        (batch,) = rows.batches(["figures"])
        assert set(batch.columns["update"]) == {1}


def test_the_command_exports_and_reports_errors(run, tmp_path, monkeypatch, capsys):
    from esper.cli import main

    monkeypatch.chdir(tmp_path)

    def ended(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["export", *arguments])
        return int(end.value.code or 0), capsys.readouterr()

    assert ended("--all", "--to", "csv", "--out", "out")[0] == 0
    assert io.StringIO(Path("out/figures.csv").read_text()).readline().startswith("run,update,")
    code, printed = ended("nope", "--to", "csv", "--out", "other")
    assert (code, printed.err.count("\n")) == (2, 1)
    code, printed = ended("--to", "excel", "--out", "other")
    assert (code, printed.err.count("\n")) == (2, 1)

    def is_full(_files, _batch):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("esper.karn.export.writers.CsvFiles.write", is_full)
    code, printed = ended("--to", "csv", "--out", "other")
    assert (code, printed.err) == (2, "esper: cannot write other: No space left on device\n")
    assert not list(Path().glob("other*"))

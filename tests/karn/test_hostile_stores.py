"""Stores that someone damaged or made on purpose: one bad run is one line, in bounded time."""

import contextlib
import io
import sqlite3
import time

import pytest
from rich.console import Console

from esper.commands.folder.runs import print_runs
from esper.commands.health import print_health
from esper.commands.sanctum import print_once
from esper.karn.sanctum.cockpit.capture import export_frame
from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import Notice

ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r)"
HOSTILE = {
    "late": ["UPDATE events SET time = 1e12"],
    "early": ["UPDATE events SET time = -1e300"],
    "heart": ["UPDATE heartbeat SET time = 1e18, process_start_time = 1e300"],
    "endless latches": [
        "DROP TABLE latches",
        f"CREATE VIEW latches AS {ENDLESS} SELECT 'op' AS head, 'nan' AS kind, 'q' AS quantity,"
        " x AS first_update, 1 AS first_epoch, 1 AS first_minibatch FROM r",
    ],
    "endless events": [
        "DROP TABLE events",
        f"CREATE VIEW events AS {ENDLESS} SELECT x AS id, 1.0 AS time, 'notice' AS kind,"
        " 1 AS update_index, x'00' AS payload FROM r",
    ],
    "endless meta": ["DROP TABLE meta", f"CREATE VIEW meta AS {ENDLESS} SELECT x AS key FROM r"],
    "no UTF-8 in the schema": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_master SET sql = CAST(x'43524541544520ff' AS TEXT) WHERE name = 'events'",
    ],
    "no UTF-8 in a name": [
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_master SET name = CAST(x'ff' AS TEXT) WHERE name = 'events'",
    ],
    "highest id": ["UPDATE events SET id = 9223372036854775807 WHERE id = 3"],
}


def change(run, *statements):
    connection = sqlite3.connect(run / "run.sqlite")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def quiet():
    return Console(file=io.StringIO(), width=300)


@pytest.mark.parametrize("name", HOSTILE)
def test_every_reader_answers_in_bounded_time(finished_run, name, tmp_path):
    change(finished_run, *HOSTILE[name])
    began = time.monotonic()
    console = quiet()
    assert print_runs(finished_run.parent, console=console) == 0
    assert "● Inf op" in console.file.getvalue()
    assert print_health(finished_run.parent, console=quiet()) == 1
    for view in (
        print_once(finished_run, console=quiet()),
        export_frame(finished_run, tmp_path / "picture.txt"),
    ):
        assert view.snapshot.tamiyo.head_inf_latch["op"]
    assert time.monotonic() - began < 20


def test_a_query_that_never_ends_is_ended(finished_run, monkeypatch):
    monkeypatch.setattr("esper.karn.store.reading.read_only_store.SESSION_SECONDS", 0.5)
    monkeypatch.setattr(
        "esper.karn.store.reading.run_reader.SELECT_EVENTS",
        f"{ENDLESS} SELECT count(*), 1, 1, 1 FROM r",
    )
    (finished_run / "latches.jsonl").unlink()
    began = time.monotonic()
    assert print_health(finished_run.parent, console=quiet()) == 1  # from the table `latches`
    assert time.monotonic() - began < 10


def test_one_bad_run_is_one_line_among_the_others(tmp_path, payloads):
    for number, statements in enumerate([[], *HOSTILE.values()]):
        run = create_run(tmp_path, f"r{number}", now=86_400.0 * number)
        with RunWriter(run) as writer:
            for payload in (payloads.start(), payloads.update(1), payloads.finish(update=1)):
                writer.emit(payload)
        change(run, *statements)
    console = quiet()
    assert print_runs(tmp_path, console=console) == 0
    assert len(console.file.getvalue().splitlines()) == 2 + len(HOSTILE)


def test_no_text_of_a_store_or_a_name_acts_upon_the_terminal(tmp_path, payloads):
    evil = "\x1b]0;title\x07\x9b31m\u202e"
    run = create_run(tmp_path, "r")
    with RunWriter(run) as writer:
        writer.emit(payloads.start(name=evil, task=evil, heads={f"op{evil}": ["a"]}))
        writer.emit(payloads.broken_update(1, f"op{evil}", "nan", quantity=f"logits{evil}"))
        writer.emit(Notice(level="info", text=evil))
        writer.emit(payloads.finish("failed", reason=evil))
    run = run.rename(run.with_name(f"{run.name}{evil}"))
    printed = []

    def show(function, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            function(*arguments)
        printed.append(out.getvalue())

    show(print_runs, tmp_path)
    show(print_health, tmp_path)
    show(print_once, run)
    for suffix in ("txt", "html", "svg"):
        picture = tmp_path / f"picture.{suffix}"
        export_frame(run, picture)
        printed.append(picture.read_text())
    for text in printed:
        assert "op" in text
        assert not set(text) & set("\x1b\x07\x9b\u202e")

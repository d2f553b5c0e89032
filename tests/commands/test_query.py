"""`esper query`: a user's SQL can only read the store of a run."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from json_forms import documented_forms, faults_of

Run = Callable[..., tuple[int, str, str]]


def test_rows_are_printed_as_text_csv_and_json(run: Run, written: Path) -> None:
    sql = "SELECT kind, payload, NULL AS absent FROM events ORDER BY id LIMIT 2"
    code, text, errors = run("query", "fine", sql)
    assert (code, errors) == (0, "")
    assert text.splitlines()[0].split() == ["kind", "payload", "absent"]
    assert "bytes>" in text
    rows = list(csv.reader(io.StringIO(run("query", "fine", sql, "--csv")[1])))
    assert rows[0] == ["kind", "payload", "absent"]
    assert (rows[1][0], rows[1][2]) == ("run_started", "")
    report = json.loads(run("query", "fine", sql, "--json")[1])
    assert (report["run"], report["cut"]) == (written.name, False)
    assert report["rows"][1]["kind"] == "ppo_update"
    assert faults_of(report, "query", documented_forms()) == []


def test_rows_above_the_limit_are_not_shown_and_a_warning_says_so(run: Run, written: Path) -> None:
    sql = "SELECT id FROM events ORDER BY id"
    code, text, errors = run("query", "", sql, "--limit", "2")
    assert (code, text.split()) == (0, ["id", "1", "2"])
    assert errors == "only 2 rows are shown; there are more (see --limit)\n"
    assert json.loads(run("query", "", sql, "--limit", "2", "--json")[1])["cut"] is True
    assert run("query", "", sql, "--limit", "3")[2] == ""


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DELETE FROM events", "can only read"),
        ("INSERT INTO events (kind) VALUES ('x')", "can only read"),
        ("ATTACH 'elsewhere' AS e", "can only read"),
        ("VACUUM INTO 'elsewhere'", "can only read"),
        ("PRAGMA user_version = 3", "can only read"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT 1; DELETE FROM events", "one statement"),
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nowhere", "no such table"),
        ("SELECT ?", "cannot be run"),
        ("SELECT '\0'", "cannot be run"),
        ("", "is empty"),
        ("SELECT zeroblob(2000000000)", "too big"),
    ],
)
def test_a_query_that_is_not_read_only_is_rejected_in_one_sentence(
    run: Run, written: Path, sql: str, words: str
) -> None:
    before = {one.name: one.read_bytes() for one in written.iterdir() if one.is_file()}
    code, output, errors = run("query", "fine", sql)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert words in errors
    assert {one.name: one.read_bytes() for one in written.iterdir() if one.is_file()} == before
    assert not Path("elsewhere").exists()


def test_an_endless_query_is_stopped(
    run: Run, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.karn.store.reading.read_only_store.SESSION_SECONDS", 0.2)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT sum(x) FROM n"
    code, _, errors = run("query", "fine", endless)
    assert code == 2
    assert "took longer" in errors


def test_a_limit_below_one_is_refused(run: Run, written: Path) -> None:
    assert "at least 1" in run("query", "fine", "SELECT 1", "--limit", "0")[2]


def test_json_rejects_duplicate_column_names(run: Run, written: Path) -> None:
    code, output, errors = run("query", "fine", "SELECT 1 AS a, 2 AS a", "--json")
    assert (code, output) == (2, "")
    assert "two columns are named 'a'" in errors
    assert run("query", "fine", "SELECT 1 AS a, 2 AS a", "--csv")[1] == "a,a\n1,2\n"

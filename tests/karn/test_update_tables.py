"""The tables of updates and episodes: what people ask first, in plain SQL."""

import math
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from esper.karn.store.run_store import RunWriter

DOCS = Path(__file__).parents[2] / "docs" / "store.md"


@pytest.fixture
def ask(run):
    """A function that asks the run's store."""

    def asked(query):
        with closing(sqlite3.connect(run / "run.sqlite")) as connection:
            return connection.execute(query).fetchall()

    return asked


def test_an_update_is_a_row_with_time_score_losses_and_what_was_skipped(run, payloads, ask):
    with RunWriter(run) as writer:
        for update in (1, 2):
            writer.emit(payloads.episodes(update, score=[0.4, 0.1 * update]))
            writer.emit(payloads.update(update, entropy=1.5, minibatches_skipped=update))

    first, second = ask(
        "SELECT update_index, episodes_done, score, accuracy, policy_loss, entropy,"
        " approximate_kl, learning_rate, minibatches, minibatches_skipped FROM updates"
    )
    assert first == (1, 2, 0.25, 0.6, -0.01, 1.5, 0.01, 2e-3, 8, 1)
    assert second[:3] == (2, 4, pytest.approx(0.3))
    (times,) = ask("SELECT min(time) > 1e9, max(time) >= min(time) FROM updates")
    assert times == (1, 1)


def test_each_host_has_a_row_for_its_episode(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.episodes(2, first_episode=3, score=[0.4, math.nan]))

    columns = "update_index, host, episode, score, reward_sum, accuracy, parameters, fossilized"
    assert ask(f"SELECT {columns} FROM episodes") == [
        (2, 0, 3, 0.4, 1.0, 0.5, 900, 1),
        (2, 1, 4, None, 2.0, 0.7, 1000, 2),
    ]


def test_means_are_over_finite_hosts_and_nan_is_null(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.episodes(1, score=[0.4, math.nan], accuracy=[0.5, math.nan]))
        writer.emit(payloads.update(1, policy_loss=math.nan, value_loss=math.inf))
        writer.emit(payloads.episodes(2, score=[math.nan, math.nan]))
        writer.emit(payloads.update(2))

    rows = ask("SELECT score, accuracy, policy_loss, value_loss FROM updates")
    assert rows == [(0.4, 0.5, None, math.inf), (None, None, -0.01, 0.5)]


def test_an_update_that_is_trained_again_replaces_its_rows(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.episodes(1, score=[0.1, 0.1, 0.1], accuracy=[0.1] * 3,
                    returns=[0.0] * 3, parameters=[1] * 3, fossilized=[0] * 3))  # fmt: skip
        writer.emit(payloads.update(1, entropy=1.0))
        writer.emit(payloads.episodes(1))
        writer.emit(payloads.update(1, entropy=2.0))

    assert ask("SELECT score, entropy FROM updates") == [(0.5, 2.0)]
    assert ask("SELECT count(*) FROM episodes") == [(2,)]


def test_a_store_without_them_gets_them_at_its_next_event(run, payloads, ask):
    with RunWriter(run) as writer:
        for update in (1, 2, 3):
            writer.emit(payloads.episodes(update))
            writer.emit(payloads.update(update))
    with closing(sqlite3.connect(run / "run.sqlite")) as connection:
        connection.executescript(
            "DROP VIEW updates; DROP TABLE update_figures; DROP TABLE episodes;"
            "UPDATE events SET payload = x'c1' WHERE kind = 'ppo_update' AND update_index = 2;"
        )
    with RunWriter(run) as writer:
        writer.emit(payloads.update(4))

    # What cannot be read is left out, and nothing else.
    assert ask("SELECT update_index, score FROM updates") == [(1, 0.5), (3, 0.5), (4, None)]
    assert ask("SELECT count(*) FROM episodes") == [(6,)]


def test_every_documented_query_runs(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.step())
        writer.emit(payloads.episodes(1))
        writer.emit(payloads.broken_update(1, "op", "+inf"))

    blocks = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    queries = [query for block in blocks for query in block.split(";") if query.strip()]
    assert len(queries) >= 8
    answers = [ask(query) for query in queries]
    assert sum(map(bool, answers)) >= 7
    assert answers[0] == [(1, 2, 0.5, 0.6)]
    assert answers[4] == [("op", "logits", "+inf", 1, 1)]


def test_the_documented_columns_are_those_of_the_tables(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
    text = DOCS.read_text()
    for table in ("updates", "episodes", "latches", "sightings", "evidence"):
        (row,) = re.findall(rf"^\| `{table}`(?: \(a view\))? \|.*$", text, re.MULTILINE)
        documented = set(re.findall(r"`(\w+)`", row.split("|")[3]))
        columns = {name for _, name, *_ in ask(f"PRAGMA table_info({table})")}
        assert columns <= documented, table

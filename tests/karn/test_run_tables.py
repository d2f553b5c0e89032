"""What a run can be asked in plain SQL: figures by head with their class, and the latches."""

import math
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.run_store import RunWriter
from esper.karn.run_tables import (
    INSERT_HEAD_HEALTH,
    JOIN_LATCH,
    JOIN_SIGHTING,
    class_of,
    create_tables,
    insert_rows,
    latch_rows,
    sighting_rows,
)
from esper.karn.sanctum.evidence import EvidenceLedger
from esper.leyline.heads import HEAD_NAMES


@pytest.fixture
def ask(run):
    """A function that asks the run's store."""

    def asked(query, *values):
        with closing(sqlite3.connect(run / "run.sqlite")) as connection:
            return connection.execute(query, values).fetchall()

    return asked


def empty_tables():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection, "0")
    return connection


def test_a_figure_of_each_head_is_a_row_with_its_class(run, payloads, ask):
    entropy = dict.fromkeys(HEAD_NAMES, 0.5) | {
        "op": math.nan,
        "slot": math.inf,
        "tempo": -math.inf,
    }
    with RunWriter(run) as writer:
        writer.emit(payloads.update(3, head_entropy=entropy))

    rows = ask(
        "SELECT head, value, class FROM head_health WHERE update_index = 3 AND quantity = 'entropy'"
    )
    found = {head: (value, kind) for head, value, kind in rows}
    assert found["op"] == (None, "nan")
    assert found["slot"] == (math.inf, "+inf")
    assert found["tempo"] == (-math.inf, "-inf")
    assert found["style"] == (0.5, "finite")
    assert ask("SELECT count(*) FROM head_health") == [(8 * len(HEAD_NAMES),)]


def test_an_update_that_is_trained_again_replaces_its_figures(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.update(1, head_kl={"op": 0.1}))
        writer.emit(payloads.update(1, head_kl={"op": 0.2}))

    assert ask("SELECT value FROM head_health WHERE quantity = 'kl'") == [(0.2,)]
    assert ask("SELECT count(*) FROM events") == [(2,)]


@pytest.mark.usefixtures("finished_run")
def test_events_carry_their_update(ask):
    rows = ask("SELECT kind, update_index FROM events ORDER BY id")

    assert rows[0] == ("run_started", None)
    assert rows[1] == ("step_completed", 1)
    assert rows[-2] == ("ppo_update", 2)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "finite"),
        (None, "+inf"),
        (None, "-inf"),
        (None, "other"),
        (1.0, "nan"),
        (1.0, "+inf"),
        (math.inf, "finite"),
        (math.inf, "-inf"),
        (-math.inf, "finite"),
        (-math.inf, "+inf"),
        (math.inf, "nan"),
        ("much", "finite"),
    ],
)
def test_a_class_that_does_not_fit_its_value_is_refused(value, kind):
    with closing(empty_tables()) as connection, pytest.raises(sqlite3.IntegrityError):
        insert_rows(connection, INSERT_HEAD_HEALTH, [(1, "op", "entropy", value, kind)])


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_every_float_is_accepted_with_its_own_class(value):
    with closing(empty_tables()) as connection:
        row = (1, "op", "entropy", value, class_of(value))
        insert_rows(connection, INSERT_HEAD_HEALTH, [row])
        ((stored, kind),) = connection.execute("SELECT value, class FROM head_health")
    if math.isnan(value):
        assert (stored, kind) == (None, "nan")
    else:
        assert stored == value
        assert (kind == "finite") == math.isfinite(value)


@pytest.mark.usefixtures("finished_run")
def test_a_latch_row_says_where_it_was_first_seen(ask):
    assert ask("SELECT * FROM latches") == [("op", "+inf", "logits", 2, 1, 1)]


sightings = st.lists(
    st.tuples(
        st.sampled_from(["op", "slot"]),
        st.sampled_from(["nan", "+inf", "-inf"]),
        st.sampled_from(["logits", "ratio"]),
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(1, 3),
    ),
    max_size=12,
)


@given(sightings, st.randoms(use_true_random=False))
def test_latches_are_the_first_sightings_in_any_order_and_with_any_repetition(rows, random):
    def latched(order):
        with closing(empty_tables()) as connection:
            connection.executemany(JOIN_LATCH, order)
            return set(connection.execute("SELECT * FROM latches"))

    shuffled = [*rows, *random.choices(rows, k=len(rows))] if rows else []
    random.shuffle(shuffled)

    firsts = {row[:3]: min(other[3:] for other in rows if other[:3] == row[:3]) for row in rows}
    assert latched(shuffled) == {(*key, *first) for key, first in firsts.items()}


def test_a_detection_without_provenance_is_latched_all_the_same(payloads):
    payload = payloads.update(
        4,
        head_inf_detected={"op": True, "slot": True},
        head_nan_detected={"op": True, "tempo": False},
        head_nonfinite=[payloads.sighting(kind="-inf", epoch=2)],
    )

    assert set(latch_rows(payload)) == {
        ("op", "-inf", "logits", 4, 2, 1),
        ("slot", "inf", "unknown", 4, 0, 0),
        ("op", "nan", "unknown", 4, 0, 0),
    }


# The evidence, counted by SQL and by the fold

places = st.tuples(st.integers(1, 3), st.integers(1, 4))
sightings = st.fixed_dictionaries(
    {
        "head": st.sampled_from(("op", "slot", "shared")),
        "quantity": st.sampled_from(("logits", "ratio")),
        "kind": st.sampled_from(("nan", "+inf", "-inf")),
        "count": st.integers(0, 5),
        "first": places,
        "last": st.one_of(st.just((0, 0)), places),
    }
)


def told(payloads, update, seen, detected):
    return payloads.update(
        update,
        head_inf_detected={"tempo": detected},
        head_nonfinite=[
            payloads.sighting(
                head=one["head"],
                quantity=one["quantity"],
                kind=one["kind"],
                count=one["count"],
                epoch=one["first"][0],
                minibatch=one["first"][1],
                last_epoch=one["last"][0],
                last_minibatch=one["last"][1],
            )
            for one in seen
        ],
    )


def evidence_by_fold(updates):
    ledger = EvidenceLedger()
    for update in updates:
        ledger.take_in(update)
    return {
        (
            *(row.head, row.quantity, row.kind),
            *(row.first_update, row.first_epoch, row.first_minibatch),
            *(row.last_update, row.last_epoch, row.last_minibatch),
            *(row.updates, row.minibatches),
        )
        for row in ledger.rows(HEAD_NAMES)
    }


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.lists(sightings, max_size=3), st.booleans()), max_size=12
    )
)
def test_sql_counts_the_evidence_as_the_fold_does(payloads, updates):
    updates = [told(payloads, *one) for one in updates]
    with closing(empty_tables()) as connection:
        for update in updates:
            connection.executemany(JOIN_SIGHTING, sighting_rows(update))
        rows = connection.execute("SELECT * FROM evidence").fetchall()

    assert len(rows) == len(set(rows))
    assert set(rows) == evidence_by_fold(updates)


def test_a_run_can_be_asked_for_its_evidence(run, payloads, ask):
    updates = [payloads.broken_update(number, "op", "nan", "ratio") for number in (2, 5, 5, 9)]
    with RunWriter(run) as writer:
        for update in updates:
            writer.emit(update)

    assert ask("SELECT head, quantity, kind, first_update, last_update, updates FROM evidence") == [
        ("op", "ratio", "nan", 2, 9, 3)
    ]


def test_an_older_store_gets_what_was_added_when_it_is_written_on(run, payloads, ask):
    with RunWriter(run) as writer:
        writer.emit(payloads.broken_update(1, "op", "nan"))
    with closing(sqlite3.connect(run / "run.sqlite")) as connection:
        connection.executescript(
            "DROP VIEW evidence; DROP TABLE sightings; DROP INDEX events_by_kind;"
        )
    with RunWriter(run) as writer:
        writer.emit(payloads.broken_update(2, "op", "nan"))

    assert ask("SELECT first_update FROM evidence") == [(2,)]
    assert ask("SELECT count(*) FROM events") == [(2,)]

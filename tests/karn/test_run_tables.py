"""What a run can be asked in plain SQL: figures by head with their class, and the latches."""

import math
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_checks import empty_tables

from esper.karn.sanctum.fold.evidence import EvidenceLedger
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunWriter
from esper.karn.store.sightings import has_sightings, sightings_of
from esper.karn.store.tables.row_insertion import insert_rows
from esper.karn.store.tables.sighting_rows import (
    JOIN_LATCH,
    JOIN_SIGHTING,
    latch_rows,
    sighting_rows,
    sightings_in,
)
from esper.karn.store.tables.update_tables import INSERT_HEAD_HEALTH, class_of
from esper.leyline.head_figures import HEAD_FIGURES
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import PHASES


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
    assert ask("SELECT count(*) FROM head_health") == [(len(HEAD_FIGURES) * len(HEAD_NAMES),)]


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
    assert ask("SELECT * FROM latches") == [
        ("op", "+inf", "logits", 2, 1, 1, "update", None, None, "", 1, 0)
    ]


phases = st.sampled_from([*PHASES, "of tomorrow"])
parts = st.sampled_from(["", "bias", "weight"])
hosts = st.none() | st.integers(0, 2)
steps = st.none() | st.integers(1, 2)
sightings = st.lists(
    st.tuples(
        st.sampled_from(["op", "slot"]),
        st.sampled_from(["nan", "+inf", "-inf"]),
        st.sampled_from(["logits", "ratio"]),
        st.integers(1, 4),
        st.integers(0, 3),
        st.integers(0, 3),
        phases,
        hosts,
        steps,
        parts,
        st.integers(0, 1),
        st.integers(0, 1),
    ),
    max_size=12,
)


def when(row):
    """Return what rows of `latches` are ordered by."""
    update, epoch, minibatch, phase, host, step, part = row[3:10]
    rank = [*PHASES, "of tomorrow"].index(phase)
    return update, rank, epoch, minibatch, step or 0, -1 if host is None else host, part


@given(sightings, st.randoms(use_true_random=False))
def test_latches_are_the_first_sightings_in_any_order_and_with_any_repetition(rows, random):
    def latched(order):
        with closing(empty_tables()) as connection:
            connection.executemany(JOIN_LATCH, order)
            return set(connection.execute("SELECT * FROM latches"))

    shuffled = [*rows, *random.choices(rows, k=len(rows))] if rows else []
    random.shuffle(shuffled)

    firsts = {}
    for row in rows:
        same = [other for other in rows if other[:3] == row[:3]]
        reproduced, planted = max(other[-2] for other in same), min(other[-1] for other in same)
        firsts[row[:3]] = (*min(same, key=when)[:-2], reproduced, planted)
    assert latched(shuffled) == set(firsts.values())


def test_a_detection_without_provenance_is_latched_too(payloads):
    payload = payloads.update(
        4,
        head_inf_detected={"op": True, "slot": True},
        head_nan_detected={"op": True, "tempo": False},
        head_nonfinite=[payloads.sighting(kind="-inf", epoch=2)],
    )

    assert set(latch_rows(payload)) == {
        ("op", "-inf", "logits", 4, 2, 1, "update", None, None, "", 1, 0),
        ("slot", "inf", "unknown", 4, 0, 0, "update", None, None, "", 1, 0),
        ("op", "nan", "unknown", 4, 0, 0, "update", None, None, "", 1, 0),
    }


# The evidence, counted by SQL and by the fold

places = st.tuples(st.integers(1, 3), st.integers(1, 4))
sightings = st.fixed_dictionaries(
    {
        "head": st.sampled_from(("op", "slot", "shared", "hosts")),
        "quantity": st.sampled_from(("logits", "ratio")),
        "kind": st.sampled_from(("nan", "+inf", "-inf")),
        "count": st.integers(0, 5),
        "first": places,
        "last": st.one_of(st.just((0, 0)), places),
        "phase": phases,
        "host": hosts,
        "step": steps,
        "part": parts,
        "reproduced": st.booleans(),
        "planted": st.booleans(),
    }
)


_ALIKE = ("phase", "host", "step", "part", "reproduced", "planted")


def update_of(payloads, update, seen, detected):
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
                **{name: one[name] for name in _ALIKE},
            )
            for one in seen
        ],
    )


def ledger_of(updates):
    ledger = EvidenceLedger()
    for update in updates:
        ledger.join_update(update)
    return ledger


def evidence_by_fold(updates):
    return {
        (
            *(row.head, row.quantity, row.kind),
            *(row.first_update, row.first_epoch, row.first_minibatch),
            *(row.last_update, row.last_epoch, row.last_minibatch),
            *(row.updates, row.minibatches),
            *(row.first_phase, row.first_host, row.first_step, row.first_part),
            *(row.last_phase, row.last_part, row.steps, row.reproduced, row.planted),
        )
        for row in ledger_of(updates).rows(HEAD_NAMES)
    }


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.lists(sightings, max_size=3), st.booleans()), max_size=12
    )
)
def test_sql_counts_the_evidence_as_the_fold_does(payloads, updates):
    updates = [update_of(payloads, *one) for one in updates]
    with closing(empty_tables()) as connection:
        for update in updates:
            connection.executemany(JOIN_SIGHTING, sighting_rows(update))
        rows = connection.execute("SELECT * FROM evidence").fetchall()

    assert len(rows) == len(set(rows))
    # -1 is what no phase that is repeated has seen: it is not "not reproduced".
    assert {(*row[:-2], row[-2] != 0, row[-1]) for row in rows} == evidence_by_fold(updates)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.lists(sightings, max_size=3), st.booleans()), max_size=12
    )
)
def test_what_the_tables_give_back_joins_to_what_went_in(payloads, updates):
    updates = [update_of(payloads, *one) for one in updates]
    with closing(empty_tables()) as connection:
        for update in updates:
            connection.executemany(JOIN_SIGHTING, sighting_rows(update))
            connection.executemany(JOIN_LATCH, latch_rows(update))
        connection.row_factory = sqlite3.Row
        rows = [
            *connection.execute("SELECT * FROM sightings"),
            *connection.execute("SELECT * FROM latches"),
        ]
    read = EvidenceLedger()
    for row in rows:
        for update, seen in sightings_in(dict(row)):
            read.join_sightings(update, [seen])

    def known_to_tables(ledger):
        return [replace(row, other_hosts=()) for row in ledger.rows(HEAD_NAMES)]

    assert known_to_tables(read) == known_to_tables(ledger_of(updates))


ACTING = {"phase": "acting", "host": 1, "step": 7, "epoch": 0, "minibatch": 0}


@pytest.mark.parametrize("phase", ["given", "acting"])
def test_a_phase_that_is_never_repeated_makes_nothing_reproduced(run, payloads, ask, phase):
    def update(number, **seen):
        seen = {"kind": "nan", **seen}
        return payloads.update(number, head_nonfinite=[payloads.sighting(**seen)])

    def known():
        stored = "SELECT DISTINCT reproduced FROM evidence UNION SELECT reproduced FROM latches"
        tamiyo = RunFollower(run).catch_up().snapshot.tamiyo
        assert tamiyo.first[0].reproduced, "where it was first seen, nothing was repeated"
        return ask(stored), tamiyo.evidence[0].reproduced

    once = {**ACTING, "phase": phase}
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(update(1, **once))
        writer.flush()
        assert known() == ([(-1,)], True)
        writer.emit(update(2, reproduced=False))
        writer.emit(update(3, **once))
        writer.flush()
        assert known() == ([(0,)], False)
        writer.emit(update(4))
        writer.emit(update(5, reproduced=False))
        writer.flush()
        assert known() == ([(1,)], True)
        writer.emit(payloads.finish(update=5))
    (run / "run.sqlite").unlink()  # latches.jsonl knows it, too
    assert RunFollower(run).catch_up().snapshot.tamiyo.evidence[0].reproduced


def test_a_run_can_be_asked_for_its_evidence(run, payloads, ask):
    updates = [payloads.broken_update(number, "op", "nan", "ratio") for number in (2, 5, 5, 9)]
    with RunWriter(run) as writer:
        for update in updates:
            writer.emit(update)

    assert ask("SELECT head, quantity, kind, first_update, last_update, updates FROM evidence") == [
        ("op", "ratio", "nan", 2, 9, 3)
    ]


@pytest.mark.parametrize(
    ("changes", "has_any"),
    [
        ({}, False),
        ({"head_inf_detected": {"op": False, "slot": True}}, True),
        ({"head_nan_detected": {"op": True}}, True),
        ({"head_inf_detected": {}, "head_nan_detected": {}}, False),
    ],
)
def test_an_update_without_sightings_is_recognised_without_listing_them(payloads, changes, has_any):
    update = payloads.update(1, **changes)
    assert has_sightings(update) == bool(list(sightings_of(update))) == has_any
    seen = payloads.update(1, head_nonfinite=[payloads.sighting()], **changes)
    assert has_sightings(seen)

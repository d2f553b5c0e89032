"""Evidence is a join semilattice, and counts each update once, however often it is read."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.fold.evidence import ROWS_KEPT, EvidenceLedger, evidence_words
from esper.karn.sanctum.schema import Evidence
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.quantities import causal_rank
from esper.leyline.telemetry import HOSTS, PHASES, SHARED, STEP_PHASES

HEADS = ("slot", "op", SHARED, HOSTS, "mystery")
PHASES_IN_TIME = (*PHASES, "of tomorrow")


@st.composite
def sightings(draw):
    first = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    last = draw(st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)))
    last_epoch, last_minibatch = max(first, last) if last else (0, 0)
    return {
        "head": draw(st.sampled_from(HEADS)),
        "quantity": draw(st.sampled_from(["logits", "ratio", "novelty"])),
        "kind": draw(st.sampled_from(["nan", "+inf", "-inf"])),
        "count": draw(st.integers(1, 9)),
        "epoch": first[0],
        "minibatch": first[1],
        "last_epoch": last_epoch,
        "last_minibatch": last_minibatch,
        "phase": draw(st.sampled_from(PHASES_IN_TIME)),
        "host": draw(st.none() | st.integers(0, 2)),
        "step": draw(st.none() | st.integers(1, 2)),
        "part": draw(st.sampled_from(["", "bias", "weight"])),
        "reproduced": draw(st.booleans()),
    }


updates = st.lists(st.tuples(st.integers(1, 5), st.lists(sightings(), max_size=3)), max_size=8)


@pytest.fixture(scope="session")
def updates_of(payloads):
    """A function that makes updates of their numbers and of what was seen in each."""

    def made(described):
        return [
            payloads.update(number, head_nonfinite=[payloads.sighting(**one) for one in seen])
            for number, seen in described
        ]

    return made


def ledger_of(told_updates):
    ledger = EvidenceLedger()
    for update in told_updates:
        ledger.join_update(update)
    return ledger


def first_moment(number, seen):
    """Return what first sightings are ordered by."""
    return (
        *(number, PHASES_IN_TIME.index(seen["phase"]), seen["epoch"], seen["minibatch"]),
        *(seen["step"] or 0, -1 if seen["host"] is None else seen["host"], seen["part"]),
    )


def counted(seen, *phases):
    """Return the counts by update of what was seen in some phases."""
    return {
        number: max(
            one["count"] for other, one in seen if other == number and one["phase"] in phases
        )
        for number, one in seen
        if one["phase"] in phases
    }


def is_reproduced(seen):
    """Return whether something was reproduced, as far as any phase that is repeated states it."""
    stated = [
        one["reproduced"]
        for _, one in seen
        if one["phase"] not in ("given", "environment", "acting") or not one["reproduced"]
    ]
    return any(stated) or not stated


def trained_hosts(seen, update):
    """Return the hosts in whose training something was seen in one update."""
    return {
        one["host"]
        for number, one in seen
        if number == update and one["phase"] == "hosts" and one["host"] is not None
    }


def last_place(seen):
    is_once = not seen["last_epoch"] and seen["count"] == 1
    return (
        (seen["epoch"], seen["minibatch"])
        if is_once
        else (seen["last_epoch"], seen["last_minibatch"])
    )


def counted_slowly(described):
    """Return the rows by going through everything once for each of them."""
    flat = [(number, seen) for number, updates_of in described for seen in updates_of]
    rows = []
    for head, quantity, kind in {(s["head"], s["quantity"], s["kind"]) for _, s in flat}:
        mine = [
            (number, seen)
            for number, seen in flat
            if (seen["head"], seen["quantity"], seen["kind"]) == (head, quantity, kind)
        ]
        update, seen = min(mine, key=lambda one: first_moment(*one))
        last_update, phase, *last, part = max(
            (number, PHASES_IN_TIME.index(one["phase"]), *last_place(one), one["part"])
            for number, one in mine
        )
        rows.append(
            Evidence(
                *(head, quantity, kind, update, seen["epoch"], seen["minibatch"]),
                *(last_update, *last, len({number for number, _ in mine})),
                minibatches=sum(counted(mine, "update").values()),
                is_active=False,
                first_phase=seen["phase"],
                first_host=seen["host"],
                first_step=seen["step"],
                first_part=seen["part"],
                last_phase=PHASES_IN_TIME[phase],
                last_part=part,
                steps=sum(counted(mine, "acting", "environment", "hosts").values()),
                other_hosts=tuple(sorted(trained_hosts(mine, update) - {seen["host"]})),
                reproduced=is_reproduced(mine),
            )
        )
    ranks = {head: rank for rank, head in enumerate((SHARED, HOSTS, *HEAD_NAMES))}
    return tuple(
        sorted(
            rows,
            key=lambda row: (
                (row.first_update, PHASES_IN_TIME.index(row.first_phase)),
                (row.first_epoch, row.first_minibatch),
                (row.first_step or 0) if row.first_phase in STEP_PHASES else 0,
                causal_rank(row.quantity),
                (row.first_step or 0, -1 if row.first_host is None else row.first_host),
                ranks.get(row.head, len(ranks)),
                row.kind,
            ),
        )
    )


@given(updates)
def test_the_rows_are_those_of_a_slow_count(updates_of, described):
    assert ledger_of(updates_of(described)).rows(HEAD_NAMES) == counted_slowly(described)


@given(updates, st.randoms(use_true_random=False))
def test_evidence_is_the_same_in_any_order_and_with_any_repetition(
    payloads, fold_events, updates_of, described, random
):
    events = payloads.events(payloads.start(), *updates_of(described))
    shuffled = [*events, *random.choices(events, k=len(events))]
    random.shuffle(shuffled)

    def rows(these):
        # What is active follows the last update, and so the order.
        return [replace(row, is_active=False) for row in fold_events(these).tamiyo.evidence]

    assert rows([events[0], *shuffled]) == rows(events)


@given(updates, st.integers(0, 8))
def test_evidence_of_two_readers_joined_is_that_of_one(updates_of, described, cut):
    def joined(*parts):
        whole = EvidenceLedger()
        for part in parts:
            whole.join(part)
        return whole.rows(HEAD_NAMES)

    made = updates_of(described)
    left, right = ledger_of(made[:cut]), ledger_of(made[cut:])
    assert joined(left, right) == joined(right, left) == ledger_of(made).rows(HEAD_NAMES)
    assert joined(left, left) == left.rows(HEAD_NAMES)


@given(updates)
def test_the_first_row_is_the_first_out(payloads, fold, updates_of, described):
    tamiyo = fold(payloads.start(), *updates_of(described)).tamiyo
    first_rows = [(row.head, row.quantity, row.kind, row.first_update) for row in tamiyo.evidence]
    firsts = [(seen.head, seen.quantity, seen.kind, seen.update) for seen in tamiyo.first]

    assert first_rows[:1] == firsts[:1]
    assert set(firsts) <= set(first_rows)


def test_an_update_that_a_resume_trained_again_counts_once(payloads, fold):
    (row,) = fold(
        payloads.start(),
        payloads.broken_update(3, "op", "+inf"),
        payloads.start(resumed_from_update=2),
        payloads.broken_update(3, "op", "+inf"),
        payloads.broken_update(5, "op", "+inf"),
    ).tamiyo.evidence

    assert (row.updates, row.minibatches) == (2, 2)
    assert (row.first_update, row.last_update) == (3, 5)


def test_active_is_what_the_last_update_saw(payloads, fold):
    def active(*these):
        return [(row.head, row.is_active) for row in fold(*these).tamiyo.evidence]

    first, second = payloads.broken_update(1, "op", "nan"), payloads.broken_update(2, "slot", "nan")
    assert active(first, second) == [("op", False), ("slot", True)]
    assert active(first, second, payloads.update(3)) == [("op", False), ("slot", False)]


def test_what_an_older_writer_saw_once_it_saw_last_where_it_saw_it_first(payloads, fold):
    def last(**changes):
        seen = payloads.sighting(epoch=2, minibatch=3, **changes)
        (row,) = fold(payloads.update(4, head_nonfinite=[seen])).tamiyo.evidence
        return row.last_update, row.last_epoch, row.last_minibatch

    assert last(count=1) == (4, 2, 3)
    assert last(count=2) == (4, 0, 0)
    assert last(count=2, last_epoch=3, last_minibatch=1) == (4, 3, 1)


def test_a_detection_without_a_place_is_evidence_too(payloads, fold):
    (row,) = fold(payloads.update(6, head_nan_detected={"op": True})).tamiyo.evidence

    assert (row.head, row.quantity, row.kind) == ("op", "unknown", "nan")
    assert (row.first_update, row.first_epoch, row.updates, row.minibatches) == (6, 0, 1, 0)


def test_what_is_shown_is_bounded_and_the_first_out_is_in_it(payloads, fold):
    many = [payloads.broken_update(n, f"head_{n:04}", "nan") for n in range(1, ROWS_KEPT + 20)]
    rows = fold(*reversed(many)).tamiyo.evidence

    assert len(rows) == ROWS_KEPT
    assert rows[0].head == "head_0001"


BEFORE = {"epoch": 0, "minibatch": 0}
ACTING = {"phase": "acting", "host": 3, "step": 7, "count": 3, **BEFORE}


@pytest.mark.parametrize(
    ("sightings", "words"),
    [
        ([{}], ""),
        ([{"reproduced": False}], "not reproduced"),
        ([{"reproduced": False}, {"reproduced": True}], ""),
        (
            [ACTING, {"reproduced": False}],
            "first while acting, host 4, step 7; last in a minibatch, in 3 steps, not reproduced",
        ),
        (
            [{"phase": "given", **BEFORE}, {"reproduced": False}],
            "first before the update; last in a minibatch, not reproduced",
        ),
        (
            [{"phase": "hosts", "host": host, "step": 6 - host, **BEFORE} for host in (2, 0, 4)],
            "while training host 5, step 2, also in hosts 1 and 3, in 1 step",
        ),
        (
            [{"phase": "hosts", "host": host, "step": 1, **BEFORE} for host in range(12)],
            "while training host 1, step 1, also in hosts 2, 3, 4, 5, 6, 7, 8, 9 and 3 more, in 1"
            " step",
        ),
        (
            [ACTING],
            "while acting, host 4, step 7, in 3 steps",
        ),
        (
            [{"phase": "given", "part": "lstm.bias_ih_l0", "epoch": 0, "minibatch": 0}],
            "lstm.bias_ih_l0, before the update",
        ),
        (
            [{"phase": "preparation", "epoch": 0, "minibatch": 0, "reproduced": False}],
            "while preparing, not reproduced",
        ),
        (
            [
                {"phase": "hosts", "host": 0, "step": 1, "epoch": 0, "minibatch": 0},
                {"host": 2, "step": 4},
            ],
            "first while training host 1, step 1; last in a minibatch, in 1 step",
        ),
        (
            [
                {"part": "bias", "phase": "given", "epoch": 0, "minibatch": 0},
                {"part": "weight", "phase": "given", "epoch": 0, "minibatch": 0},
            ],
            "first bias, before the update; last weight, before the update",
        ),
    ],
)
def test_the_words_say_what_the_columns_leave_out(payloads, fold, sightings, words):
    seen = [payloads.sighting(**one) for one in sightings]
    (row,) = fold(payloads.update(1, head_nonfinite=seen)).tamiyo.evidence

    assert evidence_words(row) == words

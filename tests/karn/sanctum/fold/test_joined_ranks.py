"""The stores of several ranks as one run: order, repetition and division do not matter."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.fold.ranks.joined_lights import joined_lights, of_rank
from esper.karn.sanctum.fold.ranks.joined_snapshot import joined_snapshot
from esper.karn.sanctum.fold.ranks.rank_state import (
    RankState,
    joined_completeness,
    joined_status,
    missing_rank,
)
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.store.reading.completeness import COMPLETE, Completeness
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.telemetry import (
    GROUPS,
    PHASES,
    SHARED,
    IncidentOrigin,
    IncidentRecorded,
    Notice,
)
from esper.leyline.text.rank_words import ranks_words

heads = st.sampled_from([*HEAD_NAMES[:2], *GROUPS, "mystery"])
sightings = st.fixed_dictionaries(
    {
        "head": heads,
        "quantity": st.sampled_from(["logits", "gradient", "parameters", "novelty"]),
        "kind": st.sampled_from(["nan", "+inf"]),
        "epoch": st.integers(0, 1),
        "minibatch": st.integers(0, 2),
        "phase": st.sampled_from([*PHASES, "of tomorrow"]),
        "host": st.none() | st.integers(0, 1),
        "step": st.none() | st.integers(1, 2),
        "part": st.sampled_from(["", "bias"]),
        "reproduced": st.booleans(),
        "planted": st.booleans(),
    }
)
#: Of one rank: updates, each with what was seen in it.
streams = st.lists(st.tuples(st.integers(1, 3), st.lists(sightings, max_size=3)), max_size=4)
ranks = st.dictionaries(st.integers(0, 4), streams, min_size=1, max_size=4)


def events_of(payloads, rank, stream):
    return payloads.events(
        payloads.start(rank=rank, world_size=5),
        *(
            payloads.update(update, head_nonfinite=[payloads.sighting(**one) for one in seen])
            for update, seen in stream
        ),
        *(
            IncidentRecorded(
                update=update,
                number=number,
                path="",
                size=0,
                sightings=[payloads.sighting(**one) for one in seen],
            )
            for number, (update, seen) in enumerate(stream, start=1)
            if seen
        ),
    )


@given(ranks, st.randoms(use_true_random=False))
def test_a_run_is_the_same_in_any_order_of_its_ranks_and_of_their_events(
    payloads, fold_events, described, random
):
    events = {rank: events_of(payloads, rank, stream) for rank, stream in described.items()}
    whole = joined_snapshot({rank: fold_events(own) for rank, own in events.items()})

    shuffled = {}
    for rank in random.sample(sorted(events), k=len(events)):
        again = [*events[rank], *random.choices(events[rank], k=len(events[rank]))]
        random.shuffle(again)
        shuffled[rank] = fold_events([*events[rank], *again])
    same = joined_snapshot(shuffled)

    assert same.tamiyo == whole.tamiyo
    assert same.incidents == whole.incidents
    assert same.interventions == whole.interventions
    assert same.run == whole.run


@given(st.lists(streams, min_size=3, max_size=3))
def test_lights_of_ranks_are_joined_in_any_grouping(payloads, fold_events, described):
    a, b, c = (
        of_rank(fold_events(events_of(payloads, rank, stream)).tamiyo, rank)
        for rank, stream in enumerate(described)
    )

    whole = joined_lights([a, b, c])
    assert joined_lights([joined_lights([a, b]), c]) == whole
    assert joined_lights([a, joined_lights([b, c])]) == whole
    assert joined_lights([a, b, a, c, b]) == whole
    assert joined_lights([whole, whole]) == whole


@given(ranks)
def test_no_light_of_a_rank_is_lost_and_none_is_made_up(payloads, fold_events, described):
    each = {
        rank: fold_events(events_of(payloads, rank, stream)) for rank, stream in described.items()
    }
    tamiyo = joined_snapshot(each).tamiyo

    for light in ("inf", "nan"):
        lit = {head for one in each.values() for head, on in one.tamiyo.latch(light).items() if on}
        assert {head for head, on in tamiyo.latch(light).items() if on} == lit
    seen = {(one.head, one.kind) for state in each.values() for one in state.tamiyo.first}
    assert {(one.head, one.kind) for one in tamiyo.first} == seen
    for first in tamiyo.first:
        assert replace(first, rank=None, reproduced=True, planted=False) in [
            replace(one, reproduced=True, planted=False) for one in each[first.rank].tamiyo.first
        ]


def test_the_first_out_is_what_a_rank_computed_itself(payloads, fold_events):
    at = {"phase": "update", "epoch": 0, "minibatch": 5}
    spread = payloads.sighting(head=SHARED, quantity="gradient", kind="nan", **at)
    born = payloads.sighting(head=SHARED, quantity="observations_of_mine", kind="nan", **at)
    run = joined_snapshot(
        {
            rank: fold_events(
                payloads.events(
                    payloads.start(rank=rank, world_size=3),
                    IncidentRecorded(update=2, number=1, path="", size=0, sightings=[seen]),
                    payloads.update(2, head_nonfinite=[seen]),
                )
            )
            for rank, seen in ((0, spread), (1, spread), (2, born))
        }
    )

    (first,) = run.tamiyo.first
    assert (first.rank, first.quantity) == (2, "observations_of_mine")
    (incident,) = run.incidents
    assert (incident.rank, incident.also_in) == (2, (0, 1))
    assert run.interventions.incidents == 1
    gradient = next(row for row in run.tamiyo.evidence if row.quantity == "gradient")
    assert (gradient.first_rank, gradient.other_ranks) == (0, (1,))


def test_of_ranks_that_share_a_bad_gradient_it_began_where_its_operation_is_known(
    payloads, fold_events
):
    seen = payloads.sighting(head=SHARED, quantity="gradient", kind="nan", minibatch=5)
    known = IncidentOrigin(operation="aten.div", phase="backward", cause="of a test")

    def snapshot(rank, origin):
        incident = IncidentRecorded(
            update=2, number=1, path="", size=0, origin=origin, sightings=[seen]
        )
        start = payloads.start(rank=rank, world_size=2)
        return fold_events(payloads.events(start, incident))

    run = joined_snapshot({0: snapshot(0, None), 1: snapshot(1, known)})

    assert [one.rank for one in run.tamiyo.first] == [1]
    (row,) = run.tamiyo.evidence
    assert (row.first_rank, row.other_ranks) == (1, (0,))
    (incident,) = run.incidents
    assert (incident.rank, incident.also_in, incident.origin) == (1, (0,), known)


def test_faults_of_different_minibatches_are_incidents_of_their_own(payloads, fold_events):
    def snapshot(rank, minibatch, path):
        seen = payloads.sighting(head="op", kind="nan", minibatch=minibatch)
        origin = IncidentOrigin(operation="aten.log", phase="forward", cause="of a test")
        incident = IncidentRecorded(
            update=2, number=1, path=path, size=1, origin=origin, sightings=[seen]
        )
        start = payloads.start(rank=rank, world_size=2)
        return fold_events(payloads.events(start, incident))

    run = joined_snapshot(
        {0: snapshot(0, 3, "incidents/0001"), 1: snapshot(1, 2, "incidents/0001")}
    )

    found = [(one.rank, one.minibatch, one.path) for one in run.incidents]
    assert found == [(1, 2, "ranks/001/incidents/0001"), (0, 3, "incidents/0001")]


def test_damage_failures_and_warnings_of_all_ranks_are_shown(payloads, fold_events):
    failing = Notice(level="error", text="the watch itself failed", monitor_failures=2)
    run = joined_snapshot(
        {
            0: fold_events(payloads.events(payloads.start(world_size=2))),
            1: fold_events(payloads.events(payloads.start(rank=1, world_size=2), failing)),
        }
    )

    assert run.run.monitor_failures == 2
    assert run.run.last_monitor_failure == "rank 1: the watch itself failed"
    assert run.log[-1].text == "rank 1: the watch itself failed"


def state(rank, kind, seconds=1.0, sentence="", **values):
    sentence = sentence or f"process {rank} is {kind.lower()}"
    return RankState(rank, RunStatus(kind, seconds, sentence), COMPLETE, **values)


LIVE, DEAD, STALE = StatusKind.LIVE, StatusKind.DEAD, StatusKind.STALE


@pytest.mark.parametrize(
    ("ranks", "kind", "sentence"),
    [
        ([state(0, LIVE), state(1, LIVE)], LIVE, "ranks 0 and 1 of 2 are training"),
        ([state(0, LIVE), missing_rank(1)], LIVE, "rank 0 of 2 is training"),
        (
            [state(0, LIVE), state(1, LIVE), state(2, STALE, 40.2), state(3, LIVE)],
            STALE,
            "rank 2 of 4 silent for 40 s",
        ),
        (
            [state(0, LIVE), state(1, DEAD)],
            StatusKind.DEGRADED,
            "rank 1 of 2: process 1 is dead",
        ),
        (
            [state(0, DEAD), state(1, DEAD)],
            DEAD,
            "ranks 0 and 1 of 2 are gone and reported no end; which was first is not known",
        ),
        (  # torchrun kills the others within a second: heartbeats do not tell
            [state(0, DEAD, ended_at=20.0), state(1, DEAD, ended_at=18.5)],
            DEAD,
            "ranks 0 and 1 of 2 are gone and reported no end; which was first is not known",
        ),
        (
            [state(0, DEAD, ended_at=20.0), state(1, DEAD, ended_at=9.0)],
            DEAD,
            "rank 1 of 2 was first: process 1 is dead; rank 0 is gone, too",
        ),
        (  # clocks of two machines may differ
            [state(0, DEAD, ended_at=20.0), state(1, DEAD, ended_at=9.0, machine="node8")],
            DEAD,
            "ranks 0 and 1 of 2 are gone and reported no end; which was first is not known",
        ),
        (
            [state(0, StatusKind.FAILED, ended_at=20.0), state(1, DEAD, ended_at=10.0)],
            DEAD,
            "rank 1 of 2: process 1 is dead; rank 0 of 2: process 0 is failed",
        ),
        (
            [state(0, StatusKind.FAILED, ended_at=10.0), state(1, DEAD, ended_at=20.0)],
            StatusKind.FAILED,
            "rank 0 of 2: process 0 is failed; rank 1 of 2: process 1 is dead",
        ),
        (
            [state(0, StatusKind.FINISHED), state(1, StatusKind.FINISHED)],
            StatusKind.FINISHED,
            "process 0 is finished",
        ),
    ],
)
def test_the_status_of_a_run_names_the_ranks_that_decide_it(ranks, kind, sentence):
    status = joined_status(ranks)

    assert (status.kind, status.sentence) == (kind, sentence)


def test_what_a_rank_lacks_is_in_doubt_for_the_run():
    whole, lacking = state(0, LIVE), replace(state(1, DEAD), completeness=Completeness(gap="why"))

    def doubt(*ranks, is_starting=False):
        return joined_completeness(ranks, 0, is_starting=is_starting).doubt

    assert doubt(whole, state(1, LIVE)) is None
    assert doubt(whole, lacking) == "rank 1: why"
    assert doubt(whole, missing_rank(1), missing_rank(2)) == "ranks 1 and 2 of 3 have no store"
    assert doubt(whole, missing_rank(1), is_starting=True) is None


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([1], "rank 1"),
        ([3, 1], "ranks 1 and 3"),
        ([0, 1, 2, 3, 12], "ranks 0 to 3 and 12"),
        (range(0, 40, 2), "ranks 0, 2, 4, 6, 8, 10, 12, 14 and 12 more"),
    ],
)
def test_ranks_in_words(ranks, words):
    assert ranks_words(ranks) == words

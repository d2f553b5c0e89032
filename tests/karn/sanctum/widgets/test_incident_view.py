"""One incident and its replay, as text."""

import json
from dataclasses import replace

import pytest

from esper.karn.sanctum.heads.incident_view import ReplayState, incidents_of, render_incident
from esper.karn.sanctum.heads.replaying import read_report
from esper.karn.sanctum.schema import Evidence, IncidentState


@pytest.fixture
def plain(views):
    """Return a function that renders an incident of the drilled run as one string."""

    def render(incident=None, replay=None, width=79, snapshot=None):
        snapshot = snapshot or views.drilled()
        lines = render_incident(snapshot, incident or snapshot.incidents[0], replay, width)
        assert all(line.cell_len <= width for line in lines)
        return "\n".join(line.plain for line in lines)

    return render


def test_it_says_what_was_seen_what_was_done_and_where_the_capsule_is(plain):
    text = plain()
    assert "incident 1  update 2" in text
    assert "Op: Inf in logits from epoch 1, minibatch 1" in text
    assert "Op: NaN in log_prob" in text
    assert "skipped bad minibatches: op Inf in logits" in text
    assert "incidents/0001/capsule.pt" in text
    assert "r repeats the update" in text


def test_it_says_in_which_phase_host_step_and_tensor_it_was(views, plain):
    snapshot = views.drilled()
    rows = (
        Evidence(
            *("hosts", "moments", "+inf", 2, 0, 0, 36, 0, 0, 2, 0),
            is_active=True,
            first_phase="hosts",
            first_host=2,
            first_step=5,
            other_hosts=(4,),
            first_part="exp_avg",
            last_phase="acting",
            reproduced=False,
        ),
    )
    snapshot = replace(snapshot, tamiyo=replace(snapshot.tamiyo, evidence=rows))
    first, last = (" ".join(plain(one, snapshot=snapshot).split()) for one in snapshot.incidents)
    words = "while training host 3, step 5, also in host 5, not reproduced"
    assert f"the hosts: Inf in moments (exp_avg), {words}" in first
    assert "the hosts: Inf in moments, while acting done" in last, "acting is not repeated"


def test_one_that_was_not_kept_says_why_and_offers_no_replay(views, plain):
    text = plain(views.drilled().incidents[1])
    assert "not kept: 3 incidents are kept at most" in text
    assert "cannot be replayed" in text
    assert "Op: Inf in logits up to epoch 4, minibatch 2" in text


def test_of_an_update_in_between_it_does_not_pretend_to_know(plain):
    text = plain(IncidentState(7, 3, "incidents/0003/capsule.pt"))
    assert "first and last sightings only" in text
    assert "no intervention is recorded" in text


def test_what_is_done_about_update_12_is_not_taken_for_update_1(views, plain):
    snapshot = views.drilled()
    log = tuple(
        replace(one, text=one.text.replace("update 2", "update 22")) for one in snapshot.log
    )
    text = plain(snapshot=replace(snapshot, log=log))
    assert "no intervention is recorded" in text


def test_while_it_runs_it_says_for_how_long(plain):
    assert "replaying 3 s" in plain(replay=ReplayState(3.2))


def test_a_failure_is_its_sentence(plain):
    assert "! the replay ended with exit code 2: no" in plain(
        replay=ReplayState(1.0, failure="the replay ended with exit code 2: no")
    )


def test_a_report_names_the_operation_its_place_and_the_way_from_there(plain, replay_report):
    text = plain(replay=ReplayState(8.0, read_report(json.dumps(replay_report))))
    for expected in (
        "REPRODUCED  in 8 s",
        "torch is 2.15.0 now and was 2.14.1 then",
        "began in   aten.mm.default",
        "the weight of op was too large",
        "forward, epoch 1, minibatch 3",
        "policy.heads",
        "line       esper/tamiyo/policy.py:88, forward",
        "return hidden @ self.weight",
        "seen in op logits as Inf",
    ):
        assert expected in text
    assert text.count("aten.mm.default  policy.heads") == 1  # neighbours of one line are one step


def test_without_an_origin_it_says_so(plain, replay_report):
    report = read_report(json.dumps(replay_report | {"origin": None, "chain": []}))
    assert "No operation was found" in plain(replay=ReplayState(1.0, report))


def test_a_long_chain_is_shortened_in_the_middle(plain, replay_report):
    chain = [replay_report["chain"][0] | {"line": line} for line in range(300)]
    report = read_report(json.dumps(replay_report | {"chain": chain}))
    text = plain(replay=ReplayState(1.0, report))
    assert "… 288 more" in text
    assert "policy.py:299" in text


@pytest.mark.parametrize("width", range(1, 77, 5))
def test_no_width_is_too_small_to_be_drawn(views, replay_report, width):
    snapshot = views.drilled()
    replay = ReplayState(1.0, read_report(json.dumps(replay_report)))
    assert render_incident(snapshot, snapshot.incidents[0], replay, width)


def test_the_incidents_of_a_row_begin_with_those_that_are_certain(views):
    evidence = views.drilled().tamiyo.evidence[0]
    incidents = [IncidentState(update, update, "x") for update in (1, 7, 36, 2, 40)]
    assert [one.update for one in incidents_of(evidence, incidents)] == [2, 36, 7]

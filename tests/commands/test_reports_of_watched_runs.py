"""Commands on a run that is watched from outside: what it has, and one sentence for the rest."""

import json

import pytest

import esper
from esper.cli import sanctum_main
from esper.karn.reports.run_comparison import compare_runs


def test_health_says_what_is_watched_and_where_it_began(run, watched):
    watched()
    code, text, _ = run("health", "cart")
    assert code == 1
    flat = " ".join(text.split())
    assert "update 3, cartlib 2.9, CartPole-v1" in flat
    assert "incidents: 1 incident 1, update 2: came in with rewards[6], which is NaN" in flat
    assert "first used by mean, forward pass, at cartlib/ppo.py:219" in flat
    for word in ("hosts", "episodes", "score", "not kept"):
        assert word not in text


def test_health_of_many_groups_lists_those_that_are_lit(run, watched):
    watched(groups=300)
    _, text, _ = run("health", "cart")
    assert "and 300 without Inf and NaN" in text
    assert len(text.splitlines()) < 30


@pytest.mark.parametrize(("still", "code"), [(0, 0), (4, 1)])
def test_health_fails_for_a_stalled_run(run, watched, still, code):
    watched(is_broken=False, still=still)
    assert run("health", "cart")[0] == code
    assert run("health", "cart", "--fail-on", "inf,nan")[0] == 0
    assert run("health", "cart", "--fail-on", "stalled")[0] == code
    report = json.loads(run("health", "cart", "--json")[1])
    assert report["library"] == "cartlib 2.9"
    latched = {"latch": bool(still), "since": 0 if still else None, "updates": still}
    assert report["stalled"] == latched
    assert list(report["group_inf_latch"]) == ["shared"]
    assert run("--line", "cart", command=sanctum_main)[0] == code


def test_runs_have_the_library_and_the_light_stalled(run, watched):
    watched(still=4)
    code, text, _ = run("runs")
    assert code == 0
    assert "cartlib 2.9" in text
    assert "● NaN steer  ● stalled" in text
    assert "episodes" not in text


def test_incidents_show_their_origin_instead_of_why_there_is_no_capsule(run, watched):
    watched()
    _, text, _ = run("incidents", "cart")
    assert "first used by mean, forward pass, at cartlib/ppo.py:219" in text
    assert "mean = rewards.mean()" in text
    assert "steer NaN in logits, minibatch 2" in text
    assert "not kept" not in text
    (row,) = json.loads(run("incidents", "cart", "--json")[1])["incidents"]
    assert row["origin"]["operation"] == "aten.mean.default"
    assert row["origin"]["line"] == 219


def test_a_notebook_sees_the_origin_and_the_logged_figures(watched):
    opened = esper.open_run(watched())
    assert opened.incidents[0]["origin"]["code"] == "mean = rewards.mean()"
    assert opened.history()[0]["loss"] == 0.5
    assert list(opened.latches["inf"]) == ["steer", "shared"]


@pytest.mark.parametrize(
    "command",
    [
        ("ppo", "--resume", "cart"),
        ("eval", "cart"),
        ("grow", "--task", "digits", "--policy", "cart", "--out", "grown"),
        ("replay", "cart"),
    ],
    ids=lambda command: command[0],
)
def test_what_a_watched_run_cannot_do_is_one_sentence(run, watched, command):
    watched()
    code, text, errors = run(*command)
    assert (code, text) == (2, "")
    assert len(errors.strip().splitlines()) == 1
    assert "cart" in errors


def test_a_screen_that_the_run_does_not_have_is_one_sentence(run, watched):
    watched()
    code, _, errors = run("cart", "--export", "a.svg", "--screen", "hosts", command=sanctum_main)
    assert code == 2
    assert "has no hosts" in errors
    assert "overview, heads, log, runs" in errors


def test_a_printed_frame_has_the_panels_of_a_watched_run(run, watched):
    watched()
    code, text, _ = run("cart", "--once", command=sanctum_main)
    assert code == 0
    for part in ("── Lights", "── Last incident", "── Figures", "── Log", "mean, forward pass"):
        assert part in text
    assert "Hosts" not in text


def test_watched_runs_are_compared_by_what_they_logged(watched):
    found = compare_runs(watched(), watched(is_broken=False))
    histories = {one.name: one.values for one in found.histories}
    assert histories["loss"] == ((0.5,), (0.5,))
    assert all(any(values) for values in histories.values())
    figures = {one.name: one.values for one in found.figures}
    assert figures["episodes"] == figures["host parameters"] == (None, None)

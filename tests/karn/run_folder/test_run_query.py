"""Filters, orders, the funnel and JSON of a folder of runs."""

import json
import math
from dataclasses import replace

import pytest

from esper.commands.folder.runs import print_runs
from esper.karn.reports.run_catalogue import list_runs
from esper.karn.reports.run_folder.funnel import FirstCount, funnel_of, varied_settings
from esper.karn.reports.run_folder.run_query import QueryError, parse_query
from esper.karn.store.liveness import StatusKind

_FIELDS = (
    "run path status reason name task library seed started_at update episodes_done episodes "
    "score best_score lit lit_by_drills first_light doubt incidents note settings world_size"
)


def found(runs, *words, sort=""):
    return [run.name for run in parse_query(words, sort=sort).select(runs)]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", "amber birch cedar douglas elm fir"),
        ("lit", "birch cedar douglas"),
        ("lit:op", "birch douglas"),
        ("lit:op,slot", "birch cedar douglas"),
        ("lit:nan first:slot", "cedar"),
        ("lit:inf", ""),
        ("not:lit status:finished", "amber elm"),
        ("seed:3", "douglas"),
        ("seed:1,2", "birch cedar"),
        ("learning_rate>=1e-2", "birch douglas elm"),
        ("learning_rate<0.01 lit", "cedar"),
        ("learning_rate:0.010", "birch douglas elm"),
        ("learning_rate!=0.01", "amber cedar fir"),
        ("setting.learning_rate=1e-3 amp=true", "amber"),
        ("batch.size>24", "elm fir"),
        ("score>0.3 score<=0.44", "douglas elm"),
        ("lit_at=2", "birch douglas"),
        ("name:AM", "amber"),
        ("nan op", "birch douglas"),
        ('"nan op"', "birch douglas"),
        ("sort:learning_rate lit", "cedar douglas birch"),
        ("sort:-best", "amber birch cedar douglas elm fir"),
    ],
)
def test_a_query_selects_runs(swept, query, names):
    assert found(list_runs(swept), query) == names.split()


def test_words_and_one_quoted_word_are_the_same(swept):
    runs = list_runs(swept)

    assert found(runs, "lit:op", "seed:3") == found(runs, "lit:op seed:3") == ["douglas"]
    assert found(runs, sort="score") == found(runs, "sort:score") == found(runs)[::-1]


def test_a_name_that_no_run_has_is_refused_with_a_suggestion(swept):
    runs = list_runs(swept)

    with pytest.raises(QueryError, match="did you mean learning_rate"):
        found(runs, "learning_rat>1")
    with pytest.raises(QueryError, match="a setting 'colour'"):
        found(runs, sort="colour")
    assert found([], "anything>1") == []


def test_figures_that_are_missing_or_not_finite_match_no_comparison_and_come_last(swept):
    runs = list_runs(swept)
    runs[0], runs[1] = replace(runs[0], score=math.nan), replace(runs[1], score=None)

    assert "amber" not in found(runs, "score>-1") + found(runs, "score<=1")
    assert found(runs, "score:nan") == ["amber"]
    assert found(runs, "score:none") == ["birch"]
    assert found(runs, sort="score")[-2:] == ["birch", "amber"]


def test_the_funnel_says_what_lit_first_and_when(swept):
    runs = list_runs(swept)
    low, high = funnel_of(runs, "learning_rate").groups

    assert (low.value, low.runs, low.lit, low.first) == (
        *(0.001, 3, 1),
        (FirstCount("slot", 1, (1, 1, 1)),),
    )
    assert (high.runs, high.lit, high.first) == (3, 2, (FirstCount("op", 2, (2, 2, 2)),))
    (whole,) = funnel_of(runs).groups
    assert (whole.runs, whole.lit, [one.name for one in whole.first]) == (6, 3, ["op", "slot"])
    assert varied_settings(runs) == ["amp", "learning_rate"]


def test_the_funnel_is_printed_as_sentences(swept, capsys):
    print_runs(swept, funnel=True, funnel_by="learning_rate")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "which head or group lit first, by learning_rate"
    assert lines[1].endswith("of 3 runs with learning_rate 0.001  1 lit: 1 slot first (update 1)")
    assert "of 3 runs with learning_rate 0.01   2 lit: 2 op first (update 2)" in lines[2]
    with pytest.raises(QueryError, match="no run has a setting 'colour'"):
        print_runs(swept, funnel=True, funnel_by="colour")


def test_json_has_the_documented_form_and_never_a_bare_nan(swept, capsys):
    print_runs(swept, ["lit:op"], funnel=True, as_json=True)

    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {name: report[name] for name in ("run_dir", "filter", "total")} == {
        "run_dir": str(swept),
        "filter": "lit:op",
        "total": 6,
    }
    assert len(report["runs"]) == 2
    first = report["runs"][0]
    assert " ".join(first) == _FIELDS
    assert first["lit"] == {"inf": [], "nan": ["op"], "stalled": False}
    assert first["first_light"] == {
        "light": "nan",
        "name": "op",
        "update": 2,
        "drill": False,
        "rank": None,
    }
    assert first["settings"] == {"learning_rate": 0.01, "batch": {"size": 8}, "amp": False}
    assert report["funnel"]["groups"][0]["first"] == [
        {"name": "op", "runs": 2, "updates": {"first": 2, "median": 2.0, "last": 2}}
    ]


def test_a_run_without_an_end_is_not_called_finished(swept):
    (run,) = parse_query(["fir"]).select(list_runs(swept))

    assert run.status.kind is not StatusKind.FINISHED

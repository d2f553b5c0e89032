"""JSON output has the documented keys and types, and no bare NaN."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_forms import documented_forms, faults_of

from esper.leyline.text.json_text import json_text

Run = Callable[..., tuple[int, str, str]]
FORMS = documented_forms()


def check(form: str, output: str) -> dict[str, Any]:
    """Check the output of a command against its form, and return it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"a bare {word}")

    value: dict[str, Any] = json.loads(output, parse_constant=refuse)
    assert faults_of(value, form, FORMS) == []
    return value


def test_reports_of_a_drilled_run_have_their_documented_forms(run: Run) -> None:
    check("runs", run("runs", "--json")[1])
    settings = ("--episodes", "1", "--envs", "1", "--steps", "2", "--lstm-size", "8")
    assert run("ppo", *settings, "--inject", "op:nan@1")[0] == 0
    health = check("health", run("health", "--json")[1])
    assert health["head_nan_latch"]["op"] is True
    assert health["first"]
    assert health["evidence"]
    assert check("incidents", run("incidents", "--json")[1])["incidents"][0]["sightings"]
    assert check("runs", run("runs", "--json")[1])["runs"][0]["first_light"]["name"] == "op"
    funnel = check("runs with a funnel", run("runs", "--json", "--funnel", "envs")[1])["funnel"]
    assert funnel["groups"][0]["first"][0]["updates"]["median"] == 1
    replay = check("replay", run("replay", "--json")[1])
    assert replay["origin"]["scalars"] == {"value": "NaN"}
    assert replay["origin"]["outputs"]
    asked = ("--episodes", "2", "--against", "none,random")
    assert check("eval", run("eval", *asked, "--json")[1])["contestants"][2]["strata"]


def test_reports_of_a_watched_run_have_their_documented_forms(run: Run, watched: Any) -> None:
    watched(still=4)
    assert check("health", run("health", "--json")[1])["stalled"]["latch"] is True
    assert check("incidents", run("incidents", "--json")[1])["incidents"][0]["origin"]["line"]


@pytest.mark.parametrize("asked", [[], ["TELE-303"]])
def test_telemetry_records_have_their_documented_form(run: Run, asked: list[str]) -> None:
    records = check("telemetry", run("telemetry", *asked, "--json")[1])["records"]
    assert "TELE-303" in {one["id"] for one in records}
    assert (len(records) == 1) is bool(asked)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_strict_json_and_reads_back(value: Any) -> None:
    def same(one: Any, read: Any) -> bool:
        if isinstance(one, float) and not math.isfinite(one):
            return isinstance(read, str) and repr(float(read)) == repr(one)
        if isinstance(one, dict):
            return {*one} == {*read} and all(same(one[key], read[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(read) and all(map(same, one, read))
        return bool(one == read and type(one) is type(read))

    def refuse(word: str) -> None:
        raise AssertionError(f"a bare {word}")

    assert same(value, json.loads(json_text(value), parse_constant=refuse))

"""The history of one head."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.heads.head_history_panel import render_history
from esper.karn.sanctum.schema import Evidence, SanctumSnapshot, TamiyoState
from esper.leyline.head_figures import CHARTED_FIGURES, HeadFigures

CHARTS = ["Entropy", "Ratio max", "Gradient norm", "Clip fraction"]


def _text(lines):
    return "\n".join(line.plain for line in lines)


@pytest.mark.parametrize(("width", "height"), [(77, 12), (117, 22), (57, 22), (40, 4)])
def test_every_figure_is_there_with_its_value(views, width, height):
    lines = render_history(views.view(), "style", width, height)
    text = _text(lines)
    assert all(label in text for label in CHARTS)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)


def test_figures_without_a_history_stand_below(views):
    text = _text(render_history(views.view(), "style", 77, 12))
    assert "KL 0.002   log p min -3.00   log p max -0.02   active 0.250" in text


def test_when_something_was_seen_is_marked_also_where_no_chart_has_it(views):
    tamiyo = replace(
        views.healthy().tamiyo,
        evidence=(
            Evidence("op", "logits", "-inf", 2, 1, 1, 19, 1, 1, 2, 2, is_active=False),
            Evidence("op", "log_prob", "nan", 19, 1, 1, 36, 1, 1, 2, 2, is_active=True),
            Evidence("slot", "ratio", "+inf", 1, 1, 1, 1, 1, 1, 1, 1, is_active=False),
        ),
    )
    view = views.view(replace(views.healthy(), tamiyo=tamiyo))
    (line,) = [
        line.plain
        for line in render_history(view, "op", 77, 12)
        if line.plain.startswith("First/last")
    ]
    axis = line.removeprefix("First/last non-finite  1 ").removesuffix(" update 36")
    places = {sign: axis.index(sign) / (len(axis) - 1) for sign in "↓*×"}
    assert places == pytest.approx({"↓": 1 / 35, "*": 18 / 35, "×": 1.0}, abs=0.02)
    assert "First/last" not in _text(render_history(view, "tempo", 77, 12))


def test_of_the_shared_part_it_is_the_losses(views):
    text = _text(render_history(views.view(), "shared", 77, 12))
    assert all(label in text for label in ("Gradient norm", "Policy loss", "Value loss"))


def test_of_the_hosts_it_is_the_score(views):
    text = _text(render_history(views.view(), "hosts", 77, 12))
    assert "Score 0.584" in text


@pytest.mark.parametrize("width", [40, 77, 190])
def test_the_place_of_the_chosen_row_is_shown_above_its_history(views, width):
    row = Evidence(
        *("op", "logits", "nan", 8, 0, 0, 12, 1, 1, 2, 0),
        is_active=False,
        first_phase="acting",
        first_host=3,
        first_step=7,
        steps=6,
        reproduced=False,
    )
    snapshot = views.healthy()
    view = views.view(replace(snapshot, tamiyo=replace(snapshot.tamiyo, evidence=(row,))))
    words = "first while acting, host 4, step 7; last in a minibatch, in 6 steps, not reproduced"
    lines = render_history(view, "op", width, 14, chosen=("op", "logits", "nan"))
    assert " ".join(_text(lines).split()).startswith(f"NaN in logits: {words}")
    assert len(lines) <= 14
    assert all(label in _text(lines) for label in CHARTS)
    others = _text(render_history(view, "op", width, 14, chosen=("op", "ratio", "nan")))
    assert "while acting" not in others


def test_a_head_that_nothing_is_known_of_says_so(views):
    text = _text(render_history(views.view(SanctumSnapshot()), "steer", 77, 12))
    assert "nothing yet" in text


@given(st.lists(st.floats(), max_size=40), st.floats())
def test_any_history_can_be_drawn(views_of, values, value):
    tamiyo = TamiyoState(
        figures=HeadFigures(
            head_entropy={"op": value}, head_ratio_max={"op": value}, head_kl={"op": value}
        ),
        head_history={figure.field: {"op": tuple(values)} for figure in CHARTED_FIGURES},
    )
    view = views_of.view(replace(views_of.healthy(), tamiyo=tamiyo))
    text = _text(render_history(view, "op", 77, 12))
    assert ("NaN" in text) == (math.isnan(value) or any(map(math.isnan, values)))

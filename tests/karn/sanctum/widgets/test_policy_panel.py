"""PPO's losses and the policy's health."""

import math
from dataclasses import replace

import pytest

from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.sanctum.widgets.palette import DARK
from esper.karn.sanctum.widgets.policy_panel import render_policy

FIGURES = {
    "Policy loss": ("policy_loss", "-0.012"),
    "Value loss": ("value_loss", "0.4520"),
    "Entropy": ("entropy", "3.1000"),
    "KL": ("approximate_kl", "0.0087"),
    "Clip fraction": ("clip_fraction", "0.1100"),
    "Explained var.": ("explained_variance", "0.6100"),
    "Gradient norm": ("gradient_norm", "0.4200"),
    "Score": ("score", "0.5840"),
}
SIZES = [(35, 10), (57, 18), (65, 43)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("label", FIGURES)
def test_each_figure_stands_beside_its_name(views, label, width, height):
    text = render_policy(views.healthy(), width, height).plain
    place = text.index(label)
    assert text[place + len(label) :].lstrip().startswith(FIGURES[label][1])


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("field", [field for field, _ in FIGURES.values()])
@pytest.mark.parametrize(
    ("value", "text", "sign"),
    [(math.nan, "NaN", "×"), (math.inf, "+Inf", "↑"), (-math.inf, "-Inf", "↓")],
)
def test_nonfinite_values_are_shown_as_what_they_are(
    views, field, value, text, sign, width, height
):
    snapshot = views.healthy()
    history = (*getattr(snapshot.training, f"{field}_history"), value)
    training = replace(snapshot.training, **{field: value, f"{field}_history": history})
    shown = render_policy(replace(snapshot, training=training), width, height).plain
    assert text in shown
    assert sign in shown


def test_charts_are_as_tall_as_there_is_room(views):
    lines = render_policy(views.healthy(), 57, 18).split("\n")
    assert len(lines) == 18
    assert all(line.cell_len <= 57 for line in lines)


def test_a_chart_says_its_highest_and_lowest_value(views):
    lines = [line.plain for line in render_policy(views.healthy(), 57, 18).split("\n")]
    assert "0.020" in lines[1]
    assert "-0.04" in lines[3]


def test_skipped_minibatches_are_an_alert(views):
    text = render_policy(views.broken(), 60, 18)
    assert "1/16 minibatches, 2 in this run" in text.plain
    place = text.plain.index("1/16")
    styles = [str(span.style) for span in text.spans if span.start <= place < span.end]
    assert f"bold {DARK.warning}" in styles


@pytest.mark.parametrize(("width", "height"), [*SIZES, (1, 1), (200, 2)])
def test_before_the_first_update_there_are_dashes(width, height):
    text = render_policy(SanctumSnapshot(), width, height)
    assert max(line.cell_len for line in text.split("\n")) <= width
    assert "NaN" not in text.plain

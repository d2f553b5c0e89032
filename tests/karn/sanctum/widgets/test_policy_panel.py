"""PPO's losses and the policy's health."""

import math
from dataclasses import replace

import msgspec
import pytest

from esper.karn.sanctum.overview.policy_panel import render_policy
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.text.palette import DARK

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
def test_each_figure_follows_its_name(views, label, width, height):
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
    training = replace(snapshot.training, **{f"{field}_history": history})
    if field == "score":
        training = replace(training, score=value)
    else:
        figures = msgspec.structs.replace(training.figures, **{field: value})
        training = replace(training, figures=figures)
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
    assert "-0.036" in lines[3], "a minus sign takes no digit away"


def test_skipped_minibatches_are_an_alert(views):
    text = render_policy(views.broken(), 65, 18)
    assert "1/16 minibatches, 2 in this run" in text.plain
    place = text.plain.index("1/16")
    styles = [str(span.style) for span in text.spans if span.start <= place < span.end]
    assert f"bold {DARK.warning}" in styles


def _under_fp16(views, **changes):
    snapshot = views.healthy()
    values = {"loss_scale": 32_768.0, "minibatches_rescaled": 1} | changes
    figures = msgspec.structs.replace(snapshot.training.figures, **values)
    training = replace(snapshot.training, figures=figures, rescaled_in_run=12)
    return replace(snapshot, training=training)


def _line_of(text, label):
    (line,) = [line for line in text.split("\n") if line.plain.startswith(label)]
    return line


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (34, "Scaler skipped 12 in all, scale 3.3e4"),
        (45, "Scaler skipped 1/16, 12 in all, scale 3.3e4"),
        (65, "Scaler skipped 1/16 minibatches, 12 in this run, loss scale 3.3e4"),
    ],
)
def test_minibatches_skipped_by_the_loss_scale_are_shown_dim_and_separately(views, width, expected):
    text = render_policy(_under_fp16(views), width, 18)
    line = _line_of(text, "Scaler skipped")
    assert line.plain == expected[:width] or line.plain.rstrip("…") == expected[: width - 1]
    assert {str(span.style) for span in line.spans} == {DARK.muted}
    assert _line_of(text, "Skipped").plain.startswith("Skipped        0/16")


def test_a_loss_scale_below_1_is_an_alert(views):
    line = _line_of(render_policy(_under_fp16(views, loss_scale=0.5), 65, 18), "Scaler skipped")
    assert line.plain.endswith("loss scale 0.500")
    assert f"bold {DARK.warning}" in {str(span.style) for span in line.spans}


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_without_fp16_there_is_no_word_of_a_scaler(views, width, height):
    text = render_policy(views.broken(), width, height).plain
    assert "Scaler" not in text
    assert "scale" not in text


def test_the_last_line_is_shortened_where_there_is_little_room(views):
    foot = _line_of(render_policy(views.broken(), 37, 18), "Skipped").plain
    assert foot.startswith("Skipped 1/16, 2 in all ")
    assert foot.endswith(" lr 0.00200")
    assert len(foot) == 37


@pytest.mark.parametrize("height", [4, 5])
def test_with_no_room_for_a_line_each_all_figures_stand_in_two_columns(views, height):
    lines = [line.plain for line in render_policy(views.broken(), 37, height).split("\n")]
    assert len(lines) == 5
    for label, value in {"Pol. loss": "-0.01", "Score": "0.584", "Grad norm": "0.420"}.items():
        assert any(f"{label:9} {value}" in line for line in lines)


@pytest.mark.parametrize(("width", "height"), [*SIZES, (1, 1), (200, 2)])
def test_before_the_first_update_there_are_dashes(width, height):
    text = render_policy(SanctumSnapshot(), width, height)
    assert max(line.cell_len for line in text.split("\n")) <= width
    assert "NaN" not in text.plain

"""Any number of runs side by side: on common axes, and with no value cut."""

import re
from pathlib import Path

import pytest

from esper.karn.reports.run_comparison import Compared, RunComparison, short_names
from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.sanctum.drawing.overlay import Curve, curve_styles, overlay
from esper.karn.sanctum.runs.comparison_panel import render_comparison, written
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.text.palette import DARK

DRILLS = ["op:inf@2", "alpha_target.log_prob:nan@17", "blueprint:-inf@40"]


def _run(name, update=4):
    return RunSummary(
        run_id=name,
        path=Path("/runs") / name,
        status=RunStatus(StatusKind.FINISHED, None, "finished"),
        name=name,
        started_at=0.0,
        update=update,
        episodes_done=8,
        episodes=8,
        score=0.5,
        inf_heads=(),
        nan_heads=(),
        inf_groups=(),
        nan_groups=(),
    )


def _comparison(*names):
    several = range(len(names))
    return RunComparison(
        tuple(_run(name, update=4 + place) for place, name in enumerate(names)),
        settings=(
            Compared("inject", (DRILLS, *[[] for _ in several[1:]])),
            Compared("learning_rate", tuple(0.003 / (place + 1) for place in several)),
            Compared("seed", tuple(7 for _ in several)),
        ),
        figures=(
            Compared("score", tuple(0.5 + 0.125 * place for place in several)),
            Compared("NaN seen in", ("op, alpha_target, blueprint", *["" for _ in several[1:]])),
        ),
        histories=(
            Compared("Score", tuple((0.1, 0.2 + 0.1 * place, 0.5) for place in several)),
            Compared("KL", tuple((0.01,) for _ in several)),
        ),
    )


def test_the_names_are_as_short_as_they_can_be():
    def names(*ids):
        return short_names([_run(name) for name in ids])

    assert names("20251122-190001-amber", "20251122-190002-birch") == ["amber", "birch"]
    assert names("20251122-190001-amber", "20251122-190002-amber") == [
        "190001-amber",
        "190002-amber",
    ]
    assert names("sweep-of-rates-0.001", "sweep-of-rates-0.003") == ["0.001", "0.003"]
    assert names("20251122-190001", "20251122-190002") == ["190001", "190002"]
    assert names("same", "same") == ["same", "same"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["op:inf@2", "slot:nan@3"], "op:inf@2, slot:nan@3"),
        ([], "–"),
        (True, "true"),
        (None, "–"),
        (0.003, "0.003"),
        (float("nan"), "NaN"),
        (12, "12"),
        ("auto", "auto"),
    ],
)
def test_values_are_written_as_users_write_them(value, text):
    assert written(value) == text


@pytest.mark.parametrize("width", [72, 78, 118, 198])
@pytest.mark.parametrize("runs", [2, 3, 5])
def test_no_value_is_cut(width, runs):
    names = [f"20251122-19000{place}-{'abcde'[place] * 6}" for place in range(runs)]
    text = render_comparison(_comparison(*names), width, 22, DARK)
    assert max(line.cell_len for line in text.split("\n")) <= width
    plain = " ".join(text.plain.split())
    assert "…" not in plain
    assert "[" not in plain
    for value in ("op, alpha_target, blueprint", ", ".join(DRILLS), "0.003", "0.5"):
        shown = re.sub(r"\s+", r"\\s+", re.escape(value).replace(r"\ ", " "))
        assert re.search(shown, plain), value
    for place, name in enumerate(names):
        assert f"{'ABCDE'[place]} {name[-6:]}" in plain


def test_two_runs_have_a_difference_and_more_a_range():
    two = render_comparison(_comparison("amber", "birch"), 78, 40, DARK).plain.splitlines()
    (score,) = [line for line in two if line.startswith("score")]
    assert score.split() == ["score", "0.5", "0.625", "+0.125"]
    assert any("difference" in line for line in two)
    three = render_comparison(_comparison("amber", "birch", "cedar"), 118, 40, DARK).plain
    (score,) = [line for line in three.splitlines() if line.startswith("score")]
    assert score.split()[-1] == "0.25"
    assert "range" in three


def test_curves_share_their_axes_and_end_in_their_letters():
    styles = curve_styles(DARK, 3)
    curves = [
        Curve("A", (0.0, 1.0, 0.0), 1.0, styles[0]),
        Curve("B", (0.0, 0.5, 1.0), 0.5, styles[1]),
        Curve("C", (float("nan"),), 1.0, styles[2]),
    ]
    lines = overlay("Score", curves, 40, 60, 9, DARK)
    assert len(lines) == 9
    assert max(line.cell_len for line in lines) <= 60
    assert lines[1].plain.startswith("1.000 ┤")
    assert lines[1].plain.endswith(" B")
    assert lines[7].plain.endswith(" A")
    assert lines[8].plain.endswith("update 40")
    assert "×" in "".join(line.plain for line in lines)
    assert len({str(span.style) for line in lines[1:8] for span in line.spans}) >= 3


def test_runs_without_a_value_say_so():
    lines = overlay("KL", [Curve("A", (), 1.0, DARK.ink)], 1, 40, 8, DARK)
    assert any("nothing yet" in line.plain for line in lines)

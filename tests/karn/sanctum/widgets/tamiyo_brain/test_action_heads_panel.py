"""The panel of the action heads: TELE-302 and TELE-303 on the screen."""

import math
from dataclasses import replace

import msgspec
import pytest

from esper.karn.sanctum.schema import (
    Evidence,
    FirstSighting,
    RunState,
    SanctumSnapshot,
    TamiyoState,
)
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import (
    DISPLAY_TO_LEYLINE_KEY,
    LIT,
    UNLIT,
    ActionHeadsPanel,
    render_heads,
)
from esper.karn.text.palette import DARK
from esper.leyline.head_figures import CHARTED_FIGURES, HEAD_FIGURES, HeadFigures
from esper.leyline.heads import HEAD_NAMES

WIDTHS = (77, 117, 197)


def _rows(snapshot, width, height=8):
    """Return the panel's lines by the word that they begin with; the names under "heads"."""
    lines = render_heads(snapshot, width, height).split("\n")
    return {"heads": lines[0]} | {line.plain[:10].strip(): line for line in lines[1:]}


def _column(rows, shown):
    return rows["heads"].plain.index(f" {shown}") + 1


def _style_at(line, place):
    return [str(span.style) for span in line.spans if span.start <= place < span.end][-1]


def _lit(label, width, tamiyo):
    """Return the heads whose light is on in a row, found by what stands above the circles."""
    rows = _rows(SanctumSnapshot(tamiyo=tamiyo), width)
    return {
        head
        for shown, head in DISPLAY_TO_LEYLINE_KEY.items()
        if rows[label].plain[_column(rows, shown)] == LIT
    }


@pytest.mark.parametrize("width", range(72, 200))
def test_nothing_is_cut_off_where_everything_has_its_place(views, width):
    for line in render_heads(views.healthy(), width).split("\n"):
        assert line.cell_len <= width
        assert "…" not in line.plain


def test_the_shown_names_stand_for_all_heads_in_their_order():
    assert tuple(DISPLAY_TO_LEYLINE_KEY.values()) == HEAD_NAMES
    assert list(DISPLAY_TO_LEYLINE_KEY) == [
        "Slot",
        "Blueprint",
        "Style",
        "Tempo",
        "αTarget",
        "αSpeed",
        "αCurve",
        "Op",
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_an_inf_in_slot_lights_the_circle_under_slot_and_only_there(width):
    tamiyo = TamiyoState()
    tamiyo.head_inf_latch["slot"] = True
    rows = _rows(SanctumSnapshot(tamiyo=tamiyo), width)
    place = _column(rows, "Slot")
    assert rows["Inf"].plain[place] == LIT
    assert _style_at(rows["Inf"], place) == f"bold {DARK.critical}"
    assert rows["Inf"].plain.count(LIT) == 1
    assert rows["Inf"].plain.count(UNLIT) == len(HEAD_NAMES) - 1
    assert LIT not in rows["NaN"].plain


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize(("label", "field"), [("Inf", "head_inf_latch"), ("NaN", "head_nan_latch")])
def test_each_light_stands_under_its_own_head(label, field, head, width):
    tamiyo = TamiyoState()
    getattr(tamiyo, field)[head] = True
    assert _lit(label, width, tamiyo) == {head}
    assert _lit({"Inf": "NaN", "NaN": "Inf"}[label], width, tamiyo) == set()


def test_a_head_can_have_both_lights():
    tamiyo = TamiyoState()
    tamiyo.head_inf_latch["op"] = tamiyo.head_nan_latch["op"] = True
    assert _lit("Inf", 117, tamiyo) == _lit("NaN", 117, tamiyo) == {"op"}


def test_unlit_circles_are_dim():
    rows = _rows(SanctumSnapshot(), 117)
    for label in ("Inf", "NaN"):
        places = [place for place, sign in enumerate(rows[label].plain) if sign == UNLIT]
        assert len(places) == len(HEAD_NAMES)
        assert all("dim" in _style_at(rows[label], place) for place in places)
        assert LIT not in rows[label].plain


def test_active_now_differs_from_latched():
    tamiyo = TamiyoState()
    tamiyo.head_inf_latch["tempo"] = tamiyo.head_inf_latch["op"] = True
    tamiyo.head_inf_active["op"] = True
    row = _rows(SanctumSnapshot(tamiyo=tamiyo), 77)
    assert row["Inf"].plain[_column(row, "Op") :].strip() == f"{LIT} now"
    assert row["Inf"].plain.count("now") == 1


def test_the_first_out_is_named_and_marked_at_its_light():
    tamiyo = TamiyoState(
        first=(
            FirstSighting("op", "-inf", "logits", update=2, epoch=1, minibatch=1),
            FirstSighting("slot", "nan", "log_prob", update=3, epoch=1, minibatch=1),
        )
    )
    tamiyo.head_inf_latch["op"] = tamiyo.head_nan_latch["slot"] = True
    rows = _rows(SanctumSnapshot(tamiyo=tamiyo), 77)
    assert "first: op -Inf in logits, update 2" in rows["first: op"].plain
    assert rows["Inf"].plain[_column(rows, "Op") :].strip() == f"{LIT}¹"
    assert "¹" not in rows["NaN"].plain


@pytest.mark.parametrize(("group", "other"), [("shared", "hosts"), ("hosts", "shared")])
def test_a_failure_of_a_group_is_shown_as_its_own_and_lights_no_head(group, other):
    tamiyo = TamiyoState(
        group_nan_latch={group: True, other: False},
        first=(FirstSighting(group, "nan", "loss", update=5, epoch=1, minibatch=2),),
    )
    rows = _rows(SanctumSnapshot(tamiyo=tamiyo), 90)
    line = rows["Shared"].plain
    ends = {"shared": line.partition("Hosts")[0], "hosts": line.partition("Hosts")[2]}
    assert f"Inf {UNLIT}  NaN {LIT}¹" in ends[group]
    assert f"Inf {UNLIT}  NaN {UNLIT}" in ends[other]
    assert f"first: {group} NaN in loss, update 5" in line
    assert LIT not in rows["Inf"].plain + rows["NaN"].plain


@pytest.mark.parametrize("group", ["shared", "hosts"])
@pytest.mark.parametrize(("kind", "other"), [("inf", "NaN"), ("nan", "Inf")])
def test_an_active_failure_of_a_group_differs_from_a_past_one(kind, other, group):
    word = {"inf": "Inf", "nan": "NaN"}[kind]
    dark = {"shared": False, "hosts": False}
    passed = {f"group_{kind}_latch": dark | {group: True}}
    going_on = passed | {f"group_{kind}_active": dark | {group: True}}
    for state, expected in ((passed, f"{word} {LIT}  "), (going_on, f"{word} {LIT} now ")):
        line = _rows(SanctumSnapshot(tamiyo=TamiyoState(**state)), 77)["Shared"].plain
        own = line[line.index(group.capitalize()) :]
        assert expected in f"{own.rstrip()}  "
        assert f"{other} {UNLIT}" in own


FIRST_OUTS = {
    "op NaN in logits, while acting, host 4, step 7, update 12": {
        "kind": "nan",
        "phase": "acting",
        "host": 3,
        "step": 7,
    },
    "op Inf in logits (heads.bias), before the update, update 12": {
        "phase": "given",
        "part": "heads.bias",
    },
    "op Inf in logits, while preparing, update 12, not reproduced": {
        "phase": "preparation",
        "reproduced": False,
    },
    "op Inf in logits, while training host 1, step 24, update 12": {
        "phase": "hosts",
        "host": 0,
        "step": 24,
    },
    "op Inf in logits, while training a host, update 12": {"phase": "hosts"},
    "op Inf in logits, of tomorrow, update 12": {"phase": "of tomorrow"},
}


@pytest.mark.parametrize("words", FIRST_OUTS)
@pytest.mark.parametrize("width", [77, 117, 190])
def test_the_first_out_says_when_and_where_it_was_and_is_not_cut_off(words, width):
    fields_of = {"kind": "+inf", "phase": "update"} | FIRST_OUTS[words]
    first = FirstSighting("op", quantity="logits", update=12, epoch=0, minibatch=0, **fields_of)
    text = render_heads(SanctumSnapshot(tamiyo=TamiyoState(first=(first,))), width).plain
    assert f"first: {words}" in text
    assert "0/0" not in text


def test_a_first_out_too_long_for_a_line_is_shortened_and_then_wrapped():
    first = FirstSighting(
        "alpha_target",
        "-inf",
        "old_log_prob",
        update=9999,
        epoch=0,
        minibatch=0,
        phase="preparation",
        host=31,
        step=24,
    )
    tamiyo = TamiyoState(first=(first,))
    lines = render_heads(SanctumSnapshot(tamiyo=tamiyo), 82).plain.splitlines()
    assert lines[-1] == (
        "first: alpha_target -Inf in old_log_prob, preparing, host 32, step 24, update 9999"
    )
    first = replace(first, reproduced=False)
    lines = render_heads(SanctumSnapshot(tamiyo=TamiyoState(first=(first,))), 77).plain
    assert " ".join(lines.split()).endswith("update 9999, not reproduced")


EVIDENCE = (
    Evidence("op", "logits", "+inf", 7, 1, 2, 40, 2, 3, 5, 25, is_active=True),
    Evidence("alpha_target", "old_log_prob", "-inf", 12, 2, 1, 20, 0, 0, 2, 6, is_active=False),
    Evidence("shared", "unknown", "nan", 13, 0, 0, 13, 0, 0, 1, 0, is_active=False),
)


SEEN_WHILE_ACTING = Evidence(
    *("op", "logits", "nan", 8, 0, 0, 12, 0, 0, 2, 0),
    is_active=False,
    first_phase="acting",
    first_host=3,
    first_step=7,
    last_phase="acting",
    steps=6,
    reproduced=False,
)


@pytest.mark.parametrize(("width", "lines_of_it"), [(77, 2), (117, 1), (190, 1)])
def test_details_of_evidence_are_shown_after_or_below_its_columns(width, lines_of_it):
    tamiyo = TamiyoState(evidence=(SEEN_WHILE_ACTING,))
    lines = render_heads(SanctumSnapshot(tamiyo=tamiyo), width).plain.splitlines()
    own = " ".join(lines[-lines_of_it:]).split()
    words = "while acting, host 4, step 7, in 6 steps, not reproduced"
    assert own == ["Op", "NaN", "in", "logits", "2", "–", "8", "12", *words.split()]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_evidence_stands_below_the_lights(width):
    snapshot = SanctumSnapshot(tamiyo=TamiyoState(evidence=EVIDENCE))
    lines = render_heads(snapshot, width).split("\n")
    words = "(update/epoch/minibatch)" if width > 80 else "(upd/ep/mb)"
    assert [line.plain.split() for line in lines[-4:]] == [
        ["Evidence", "seen", "updates", "minib.", "first", "last", words],
        ["Op", "Inf", "in", "logits", "5", "25", "7/1/2", "40/2/3", "now"],
        ["αTarget", "-Inf", "in", "old_log_prob", "2", "6", "12/2/1", "20"],
        ["shared", "NaN", "in", "unknown", "1", "–", "13", "13"],
    ]
    styles = [_style_at(line, 0) for line in lines[-3:]]
    assert styles == [f"bold {DARK.critical}", DARK.ink, DARK.ink]


def test_without_evidence_there_is_no_heading_for_it(views):
    assert "Evidence" not in render_heads(views.healthy(), 117, 40).plain


@pytest.mark.parametrize("rows", [1, 2, 3, 12])
def test_evidence_goes_before_further_figures(rows):
    snapshot = SanctumSnapshot(tamiyo=TamiyoState(evidence=(EVIDENCE * 4)[:rows]))
    shown_first = min(rows + 1, 5)
    assert "Log p min" not in render_heads(snapshot, 117, 12 + shown_first - 1).plain
    assert "Log p min" in render_heads(snapshot, 117, 12 + shown_first).plain


@pytest.mark.parametrize(
    ("value", "text", "sign"),
    [(math.nan, "NaN", "×"), (math.inf, "+Inf", "↑"), (-math.inf, "-Inf", "↓")],
)
def test_nonfinite_figures_are_shown_as_what_they_are(value, text, sign):
    values = dict.fromkeys(HEAD_NAMES, value)
    tamiyo = TamiyoState(
        figures=HeadFigures(**{figure.field: values for figure in HEAD_FIGURES}),
        head_history={
            figure.field: dict.fromkeys(HEAD_NAMES, (0.5, value)) for figure in CHARTED_FIGURES
        },
    )
    rows = _rows(SanctumSnapshot(tamiyo=tamiyo), 117, height=len(HEAD_FIGURES) + 4)
    for figure in HEAD_FIGURES:
        row = rows[figure.label].plain
        assert row.count(text) == len(HEAD_NAMES)
        if figure in CHARTED_FIGURES:
            assert row.count(sign) == len(HEAD_NAMES)


def test_figures_stand_under_their_heads(views):
    snapshot = views.healthy()
    entropy = {head: 0.125 * place for place, head in enumerate(HEAD_NAMES)}
    figures = msgspec.structs.replace(snapshot.tamiyo.figures, head_entropy=entropy)
    snapshot = replace(snapshot, tamiyo=replace(snapshot.tamiyo, figures=figures))
    rows = _rows(snapshot, 77)
    for shown, head in DISPLAY_TO_LEYLINE_KEY.items():
        text = f"{entropy[head]:.3f}" if entropy[head] else "0"
        assert rows["Entropy"].plain[_column(rows, shown) :].startswith(text)


def test_a_figure_beyond_its_threshold_is_amber(views):
    snapshot = views.healthy()
    ratios = snapshot.tamiyo.figures.head_ratio_max | {"op": 50.0}
    figures = msgspec.structs.replace(snapshot.tamiyo.figures, head_ratio_max=ratios)
    snapshot = replace(snapshot, tamiyo=replace(snapshot.tamiyo, figures=figures))
    rows = _rows(snapshot, 117)
    assert _style_at(rows["Ratio max"], _column(rows, "Op")) == f"bold {DARK.warning}"
    assert _style_at(rows["Ratio max"], _column(rows, "Slot")) == DARK.ink


def test_the_heads_of_another_agent_are_shown_by_their_own_names():
    heads = {"steering": ("left", "right"), "throttle": ("off", "on")}
    tamiyo = TamiyoState(
        head_inf_latch={"steering": False, "throttle": True},
        head_nan_latch={"steering": False, "throttle": False},
    )
    rows = _rows(SanctumSnapshot(run=RunState(heads=heads), tamiyo=tamiyo), 77)
    assert rows["heads"].plain.split() == ["steering", "throttle"]
    assert rows["Inf"].plain[_column(rows, "throttle")] == LIT
    assert rows["Inf"].plain[_column(rows, "steering")] == UNLIT


def test_heads_that_do_not_fit_follow_below_and_no_light_is_lost():
    heads = {f"joint_{number:02}": ("a", "b") for number in range(24)}
    tamiyo = TamiyoState(head_inf_latch=dict.fromkeys(heads, True), head_nan_latch={})
    text = render_heads(SanctumSnapshot(run=RunState(heads=heads), tamiyo=tamiyo), 77)
    assert text.plain.count(LIT) == len(heads)
    assert all(head in text.plain for head in heads)
    assert max(line.cell_len for line in text.split("\n")) <= 77


def test_a_light_of_a_head_that_the_run_did_not_name_is_shown():
    tamiyo = TamiyoState()
    tamiyo.head_inf_latch["ninth"] = True
    rows = _rows(SanctumSnapshot(tamiyo=tamiyo), 117)
    assert rows["Inf"].plain[_column(rows, "ninth")] == LIT


@pytest.mark.parametrize("width", range(1, 90))
def test_no_width_is_too_small_to_be_drawn(views, width):
    lines = render_heads(views.broken(), width).split("\n")
    assert max(line.cell_len for line in lines) <= width


async def test_the_panel_shows_the_lights_in_the_app(views, sanctum, seen, screen_text):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        panel = app.screen.query_one(ActionHeadsPanel)
        lines = screen_text(app)[panel.region.y : panel.region.bottom]
        (names,) = [line for line in lines if "Blueprint" in line]
        (inf,) = [line for line in lines if line.strip().startswith("Inf")]
        assert inf[names.index(" Op") + 1] == LIT
        assert inf.count(LIT) == 1

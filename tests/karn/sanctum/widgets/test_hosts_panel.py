"""The hosts."""

import math
from dataclasses import replace

import pytest

from esper.karn.sanctum.drawing.seed_stages import STAGE_SIGNS, stage_sign
from esper.karn.sanctum.overview.hosts_panel import render_hosts
from esper.karn.sanctum.schema import SanctumSnapshot, SlotState
from esper.leyline.heads import Stage


def _lines(text):
    return [line.plain for line in text.split("\n", allow_blank=True)]


def test_every_stage_has_a_sign_of_its_own():
    assert set(STAGE_SIGNS) == set(Stage)
    assert len(set(STAGE_SIGNS.values())) == len(Stage)
    assert stage_sign(99) == "?"


@pytest.mark.parametrize("width", [40, 57, 65, 118])
def test_a_host_has_a_line_with_its_figures(views, width):
    lines = _lines(render_hosts(views.healthy(), width, 20))
    assert lines[0].split()[:3] == ["#", "accuracy", "params"]
    line = lines[4]
    assert line.split()[0] == "4"
    assert "59.4%" in line
    assert "1.79k" in line
    assert all(len(line) <= width for line in lines)


def test_a_slot_shows_its_stage_how_much_of_it_there_is_and_its_blueprint(views):
    host = views.healthy().hosts[0]
    slots = (
        SlotState(stage=Stage.BLENDING, alpha=0.5, blueprint=3),
        SlotState(stage=Stage.DORMANT, alpha=0.0, blueprint=-1),
        SlotState(stage=Stage.FOSSILIZED, alpha=1.0, blueprint=5),
    )
    snapshot = replace(views.healthy(), hosts=(replace(host, slots=slots),))
    line = _lines(render_hosts(snapshot, 80, 3))[1]
    assert "◧▅ conv" in line
    assert "◆█ attention" in line
    assert line.index("◧") < line.index("·") < line.index("◆")


def test_loss_and_reward_are_shown_where_there_is_room(views):
    heading, first, *_ = _lines(render_hosts(views.healthy(), 118, 20))
    assert heading.split()[3:5] == ["loss", "reward"]
    assert first[heading.index("loss") :].startswith("1.2500 ")
    assert first[heading.index("reward") :].startswith("-0.062 ")


def test_the_legend_names_every_stage_where_there_is_room(views):
    text = render_hosts(views.healthy(), 57, 30).plain
    assert all(f"{sign} {stage.name.lower()}" in text for stage, sign in STAGE_SIGNS.items())
    assert "dormant" not in render_hosts(views.healthy(), 57, 9).plain


def test_hosts_that_do_not_fit_in_one_column_are_shown_in_several(views):
    lines = _lines(render_hosts(views.healthy(hosts=16), 118, 9))
    assert len(lines) == 9
    assert lines[1].split()[0] == "1"
    assert " 9 " in lines[1]


def test_no_host_is_left_out_when_even_that_is_not_enough(views):
    text = render_hosts(views.healthy(hosts=64), 57, 9).plain.replace("\n", " ")
    assert all(f" {host} " in f" {text}" for host in range(1, 65))


def test_eight_hosts_have_room_in_four_lines(views):
    lines = _lines(render_hosts(views.healthy(), 40, 4))
    assert lines[0] == " 1 50.0% █▅▂▁▄▇ ··◆   5 62.5% █▅▂▁▄▇ ■·◆"
    assert len(lines) == 4
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert " 5 62.5%" in lines[0]


def test_an_alpha_that_is_not_finite_has_its_sign_however_narrow_it_is(views):
    host = views.healthy().hosts[0]
    slots = (SlotState(Stage.BLENDING, math.nan, 3), SlotState(Stage.BLENDING, 0.5, 3))
    hosts = (replace(host, slots=slots), *views.healthy().hosts[1:])
    line = _lines(render_hosts(replace(views.healthy(), hosts=hosts), 40, 4))[0]
    assert line.startswith(" 1 50.0% █▅▂▁▄▇ ×◧")


def test_where_slots_have_no_names_one_heading_stands_for_all(views):
    heading = _lines(render_hosts(views.healthy(), 45, 20))[0]
    assert heading.rstrip().endswith("slots")
    assert "…" not in heading


def test_the_names_of_blueprints_are_whole_from_64_cells_on(views):
    text = render_hosts(views.healthy(), 64, 20).plain
    assert all(
        name in text for name in ("norm", "depthwise", "pointwise", "bottleneck", "attention")
    )
    assert "…" not in text


def test_a_name_that_is_cut_says_so(views):
    assert "bottle…" in render_hosts(views.healthy(), 55, 20).plain


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf")]
)
def test_nonfinite_values_are_shown_as_what_they_are(views, value, text):
    host = views.healthy().hosts[0]
    slots = (SlotState(stage=Stage.BLENDING, alpha=value, blueprint=3),)
    host = replace(
        host, accuracy=value, loss=value, reward=value, slots=slots, accuracy_history=(0.5, value)
    )
    line = _lines(render_hosts(replace(views.healthy(), hosts=(host,)), 118, 20))[1]
    assert line.count(text) == 3


def test_before_the_first_step_it_says_so():
    assert render_hosts(SanctumSnapshot(), 40, 5).plain == "no step completed yet"


@pytest.mark.parametrize("width", range(1, 80, 3))
def test_no_width_is_too_small_to_be_drawn(views, width):
    lines = render_hosts(views.healthy(), width, 12).split("\n", allow_blank=True)
    assert max(line.cell_len for line in lines) <= width


def with_largest_class(snapshot, share):
    return replace(snapshot, run=replace(snapshot.run, largest_class=share))


def test_accuracies_are_shown_with_the_share_of_the_largest_class(views):
    shown = render_hosts(with_largest_class(views.healthy(), 0.1085), 118, 20).plain
    assert "accuracy of the largest class 10.8%" in shown
    unknown = render_hosts(with_largest_class(views.healthy(), None), 118, 20).plain
    assert "largest class" not in unknown  # a run of an older writer


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
async def test_every_screen_with_accuracies_has_the_largest_class_at_every_size(
    views, sanctum, seen, screen_text, size
):
    app = sanctum(views.view(with_largest_class(views.healthy(), 0.1085)))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        assert "Hosts · largest class 10.8%" in "\n".join(screen_text(app))
        await pilot.press("3")
        await pilot.pause()
        words = "largest 10.8%" if size[0] == 80 else "largest class 10.8%"  # no room for more
        assert f"Hosts · {words}" in "\n".join(screen_text(app))

"""One host: its curves, its growth, its network, and the list that it is chosen from."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.drawing.seed_stages import STAGE_SIGNS
from esper.karn.sanctum.hosts.growth_timeline import render_timeline
from esper.karn.sanctum.hosts.host_curves import render_curves, render_reward
from esper.karn.sanctum.hosts.host_list_panel import render_host_list
from esper.karn.sanctum.hosts.network_drawing import render_network, seed_parameters
from esper.karn.sanctum.schema import HostState, RunState, SanctumSnapshot, SlotState
from esper.leyline.heads import BLUEPRINT_CHOICES, SLOT_CHOICES, Stage

RUN = RunState(
    slots=SLOT_CHOICES, blueprints=BLUEPRINT_CHOICES, step=11, steps=24, host_parameters=858
)
EMPTY = SlotState()


def _plain(lines, width):
    assert all(line.cell_len <= width for line in lines)
    return [line.plain for line in lines]


def _host(slot_history, parameters_history=(), **more):
    slots = slot_history[-1] if slot_history else ()
    figures = {"accuracy": 0.5, "loss": 1.0, "parameters": 858, "reward": 0.0} | more
    return HostState(
        0,
        1,
        slots=slots,
        slot_history=tuple(slot_history),
        parameters_history=tuple(parameters_history),
        **figures,
    )


@pytest.fixture
def host(views):
    """Return a host with a whole history."""
    return views.drilled().hosts[3]


@pytest.mark.parametrize(("width", "height"), [(52, 8), (82, 18), (150, 30)])
def test_curves_have_axes_over_the_steps_and_the_terms_of_the_reward(host, width, height):
    lines = _plain(render_curves(host, RUN, width, height), width)
    text = "\n".join(lines)
    assert "Accuracy 0.5938" in text
    assert "Loss 1.0625" in text
    assert "step 11" in text
    assert ("= potential 0.0625 " in text) == (height < 18)
    assert ("Reward: potential 0.0625" in text) == (height >= 18)
    assert len(lines) <= height
    assert ("Parameters 1.79k" in text) == (height >= 18)


def test_the_terms_of_a_reward_have_as_much_of_a_line_as_there_is(host):
    for width, on_a_line in ((30, 1), (52, 2), (82, 2), (150, 4)):
        lines = _plain(render_reward(host, RUN, width, 8), width)
        assert len(lines) == 4 / on_a_line
        (first, *_), text = lines, "\n".join(lines)
        assert first.startswith("reward      0.0312 █")
        for expected in ("= potential 0.0625 █", "+ rent      -0.016 █", "+ score     0      ▄"):
            assert expected in text


@pytest.mark.parametrize(("width", "height"), [(52, 8), (82, 20)])
def test_a_nonfinite_reward_term_is_shown_unchanged(host, width, height):
    terms = {"rent": math.nan}
    history = {"rent": (0.5, math.inf, -math.inf, math.nan)}
    broken = replace(host, reward_terms=terms, reward_terms_history=history)
    text = "\n".join(_plain(render_reward(broken, RUN, width, height), width))
    assert "rent NaN" in " ".join(text.split())
    assert all(sign in text for sign in "↑↓×")


def test_a_term_without_earlier_values_has_no_curve(host):
    text = "\n".join(_plain(render_reward(replace(host, reward_terms_history={}), RUN, 52, 8), 52))
    assert "+ rent" in text


@pytest.mark.parametrize("height", [5, 7, 10, 13])
def test_every_slot_has_its_stages_and_alpha_over_the_steps(host, height):
    text = "\n".join(_plain(render_timeline(host, RUN, 80, height), 80))
    assert all(slot in text for slot in SLOT_CHOICES)
    for stage in (Stage.DORMANT, Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING):
        assert STAGE_SIGNS[stage] in text
    for expected in ("conv", "attention", "█", "▃", "step 1 ", " 11"):
        assert expected in text


def test_the_stages_stand_above_each_other_in_time(host):
    lines = _plain(render_timeline(host, RUN, 19, 13), 19)  # one cell a step
    (stages,) = [line for line in lines if line.startswith("early")]
    assert stages[8:] == "·▫▪▪▪◧◧■■◆◆"


def test_more_steps_than_cells_keep_the_last_of_each(host):
    history = [(SlotState(Stage.TRAINING, 0.0, 3),)] * 99 + [(SlotState(Stage.PRUNED, 0.0, 3),)]
    text = "\n".join(_plain(render_timeline(_host(history), RUN, 40, 13), 40))
    assert STAGE_SIGNS[Stage.PRUNED] in text


@pytest.mark.parametrize(("alpha", "sign"), [(math.nan, "×"), (math.inf, "↑"), (-math.inf, "↓")])
def test_an_alpha_that_is_not_finite_has_its_sign(alpha, sign):
    host = _host([(SlotState(Stage.BLENDING, alpha, 3),)] * 3)
    assert sign in "\n".join(_plain(render_timeline(host, RUN, 60, 6), 60))


def test_without_slots_or_steps_it_says_so():
    assert "no slots" in render_timeline(_host([()]), RUN, 60, 6)[0].plain
    assert "no step" in render_timeline(_host([]), RUN, 60, 6)[0].plain


def test_the_network_is_drawn_from_the_input_to_the_classes_at_80_columns(host):
    lines = _plain(render_network(host, RUN, 78), 78)
    line = lines[4]
    places = [line.index(part) for part in ("input", " 1 ", " 2 ", " 3 ", "classes")]
    assert places == sorted(places)
    text = "\n".join(lines)
    for expected in ("early", "middle", "late", "◆ conv", "α 0.75", "◆ attention", "embargoed"):
        assert expected in text
    assert lines[-1] == "1.79k parameters = 858 of the host + 933 grown"


@pytest.mark.parametrize("blueprint", range(len(BLUEPRINT_CHOICES)))
def test_every_blueprint_is_whole_at_80_columns(blueprint):
    slot = SlotState(Stage.HOLDING, 0.7, blueprint)
    text = "\n".join(_plain(render_network(_host([(slot, EMPTY, EMPTY)]), RUN, 78), 78))
    assert f"■ {BLUEPRINT_CHOICES[blueprint]} " in text


def test_a_network_that_is_too_wide_goes_from_top_to_bottom(host):
    lines = _plain(render_network(host, RUN, 40), 40)
    assert lines[0] == "input"
    assert "├─ early ◆ conv α 0.75" in "\n".join(lines)
    assert lines[-2].endswith("classes")


def test_a_network_without_slots_is_drawn():
    assert _plain(render_network(_host([()]), RUN, 78), 78)[0] == "input"


def test_the_size_of_a_seed_is_shown_if_it_was_the_only_one_added():
    conv = SlotState(Stage.GERMINATED, 0.0, 3)
    history = [(EMPTY, EMPTY), (conv, EMPTY), (conv, conv), (EMPTY, conv)]
    assert seed_parameters(_host(history[:2], [858, 1058]), 858) == [200, None]
    assert seed_parameters(_host(history[:3], [858, 1058, 1258]), 858) == [200, 200]
    assert seed_parameters(_host(history, [858, 1058, 1258, 1058]), 858) == [None, 200]


CONV, NORM = (SlotState(Stage.GERMINATED, 0.0, blueprint) for blueprint in (3, 1))


def test_a_seed_that_came_in_the_first_step_has_its_size():
    assert seed_parameters(_host([(CONV, EMPTY)], [1058]), 858) == [200, None]


def test_of_seeds_that_came_together_the_sizes_are_known_once_one_is_gone():
    history = [(CONV, NORM), (CONV, EMPTY), (CONV, NORM)]
    assert seed_parameters(_host(history, [1068, 1058, 1068]), 858) == [200, 10]


def test_an_unreported_host_size_is_taken_from_a_step_without_seeds():
    assert seed_parameters(_host([(EMPTY, EMPTY), (CONV, EMPTY)], [858, 1058]), 0) == [200, None]
    assert seed_parameters(_host([(CONV, EMPTY)], [1058]), 0) == [None, None]


@pytest.mark.parametrize("width", [40, 78, 160])
def test_the_size_of_a_seed_is_not_guessed(width):
    host = _host([(EMPTY, EMPTY), (CONV, NORM)], [858, 1258])
    assert seed_parameters(host, 858) == [None, None]
    assert "\n".join(_plain(render_network(host, RUN, width), width)).count("+?") == 2


@pytest.mark.parametrize("width", [22, 30, 40, 60])
def test_the_list_has_a_line_for_each_host(views, width):
    lines = _plain(render_host_list(views.drilled(64), width), width)
    assert len(lines) == 65
    assert lines[64].split()[0] == "64"
    assert lines[64].endswith("◆−◆")


def test_before_the_first_step_the_list_says_so():
    assert "no step" in render_host_list(SanctumSnapshot(), 40)[0].plain


SLOTS = st.builds(
    SlotState, stage=st.integers(-1, 9), alpha=st.floats(), blueprint=st.integers(-1, 9)
)
VALUES = st.lists(st.floats(), max_size=12).map(tuple)


@given(
    st.builds(
        HostState,
        host=st.integers(0, 9),
        episode=st.just(1),
        accuracy=st.floats(),
        loss=st.floats(),
        parameters=st.integers(0, 10**12),
        reward=st.floats(),
        slots=st.lists(SLOTS, max_size=4).map(tuple),
        accuracy_history=VALUES,
        loss_history=VALUES,
        reward_history=VALUES,
        parameters_history=st.lists(st.integers(0, 10**12), max_size=12).map(tuple),
        slot_history=st.lists(st.lists(SLOTS, max_size=4).map(tuple), max_size=12).map(tuple),
        reward_terms=st.dictionaries(st.text(max_size=9), st.floats(), max_size=4),
    ),
    st.integers(1, 120),
    st.integers(1, 30),
)
def test_whatever_was_stored_of_a_host_is_drawn_within_its_place(host, width, height):
    _plain(render_timeline(host, RUN, width, height), width)
    _plain(render_network(host, RUN, width), width)
    _plain(render_curves(host, RUN, width, height), width)
    _plain(render_host_list(SanctumSnapshot(hosts=(host,)), width), width)

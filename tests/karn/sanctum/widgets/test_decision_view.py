"""What was chosen, how surely, and out of what."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.decisions.decision_row import (
    decision_words,
    joint_probability,
    render_decision_row,
    share,
    when,
)
from esper.karn.sanctum.decisions.decision_view import TAKEN, bar, render_decision
from esper.karn.sanctum.schema import DecisionState, HeadDecision, RunState
from esper.karn.text.palette import DARK
from esper.leyline.heads import HEAD_CHOICES, Op

RUN = RunState(steps=24)


def _text(decision, run=RUN, width=77, height=17):
    lines = render_decision(decision, run, width, height)
    assert all(line.cell_len <= width for line in lines)
    return "\n".join(line.plain for line in lines)


def test_every_choice_of_every_head_is_there_and_the_taken_ones_are_marked(views):
    text = _text(views.decision(0), width=190)
    assert all(choice[:14] in text for choices in HEAD_CHOICES.values() for choice in choices)
    for taken in ("GERMINATE", "middle", "depthwise", "linear_multiply", "3 steps", "0.7"):
        assert f"{TAKEN}{taken}" in text
    assert text.count(TAKEN) == len(HEAD_CHOICES)


def test_an_illegal_choice_is_marked(views):
    text = _text(views.decision(0), width=190)
    assert text.count("illegal") == sum(max(0, len(one) - 3) for one in HEAD_CHOICES.values())


def test_heads_that_did_not_count_are_dim_and_say_so(views):
    lines = render_decision(views.decision(0, Op.WAIT), RUN, 190, 30)
    text = "\n".join(line.plain for line in lines)
    assert text.count("inactive") == len(HEAD_CHOICES) - 1
    (line,) = [line for line in lines if "depthwise" in line.plain]
    place = line.plain.index("depthwise")
    (span,) = [span for span in line.spans if span.start <= place < span.end]
    assert DARK.muted in str(span.style)


def test_at_80_by_24_all_of_it_is_in_sight(views):
    assert len(render_decision(views.decision(0), RUN, 77, 17)) <= 17


def test_a_row_says_what_was_done_how_surely_and_what_it_is_worth(views):
    row = render_decision_row(views.decision(2), RUN, 120).plain
    assert row.startswith(
        "  host 3   GERMINATE middle · depthwise · linear_multiply · 3 steps · 0.7"
    )
    assert "p   4%" in row
    assert "value 0.375" in row


def test_only_active_heads_are_named_and_counted(views):
    decision = views.decision(0, Op.WAIT)
    assert decision_words(decision, RUN) == "WAIT"
    (op,) = [one for one in decision.heads if one.head == "op"]
    assert joint_probability(decision) == op.probability


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (1.0, "100%"),
        (0.5, "50%"),
        (0.001, "<1%"),
        (0.0, "0%"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (1.7, "1.7"),
        (-0.2, "-0.2"),
    ],
)
def test_a_probability_is_shown_unchanged(probability, text):
    assert share(probability) == text


@pytest.mark.parametrize("probability", [math.nan, math.inf, -math.inf, 1.7])
def test_an_invalid_probability_is_an_alarm_even_for_an_unused_head(probability):
    heads = (HeadDecision("op", 0, 1.0, True), HeadDecision("slot", 0, probability, False))
    lines = render_decision(DecisionState(0, 1, 1, heads, 0.0), RUN, 77, 17)
    alarms = [
        line.plain[span.start : span.end].strip()
        for line in lines
        for span in line.spans
        if DARK.critical in str(span.style)
    ]
    assert share(probability) in alarms


def test_a_value_that_is_not_finite_is_an_alarm(views):
    row = render_decision_row(replace(views.decision(0), value=math.nan), RUN, 120)
    assert "value NaN" in row.plain
    assert any(DARK.critical in str(span.style) for span in row.spans)


def test_missing_probabilities_of_other_choices_are_reported(views):
    decision = views.decision(0)
    heads = tuple(replace(one, probabilities=()) for one in decision.heads)
    text = _text(replace(decision, heads=heads))
    assert "does not record the probabilities" in text
    assert f"{TAKEN}GERMINATE" in text


def test_heads_and_choices_of_another_agent_are_shown_by_what_is_known(views):
    heads = (
        HeadDecision("steer", 1, 0.75, True, (0.25, 0.75)),
        HeadDecision("gas", 9, 0.5, True, (0.5,)),
    )
    run = RunState(heads={"steer": ("left", "right")})
    text = _text(DecisionState(0, 1, 1, heads, 0.0), run)
    assert f"{TAKEN}right" in text
    assert f"{TAKEN}#9" in text


def test_an_unknown_decision_is_reported():
    assert "choices are not known" in _text(DecisionState(0, 1, 1, (), 0.0))


def test_when_it_was_decided(views):
    assert when([views.decision(0)], RUN) == "update 37, step 11 of 24"
    assert when([], RUN) == ""


@given(
    st.lists(
        st.tuples(
            st.integers(-2, 9), st.floats(), st.booleans(), st.lists(st.floats(), max_size=9)
        ),
        max_size=9,
    ),
    st.integers(1, 200),
    st.integers(1, 50),
)
def test_whatever_was_stored_is_drawn_within_its_place(heads, width, height):
    decision = DecisionState(
        0,
        1,
        1,
        tuple(
            HeadDecision(name, choice, probability, is_active, tuple(shares))
            for name, (choice, probability, is_active, shares) in zip(
                (*HEAD_CHOICES, "steer"), heads, strict=False
            )
        ),
        math.nan,
    )
    lines = render_decision(decision, RUN, width, height)
    assert all(line.cell_len <= width for line in lines)
    assert render_decision_row(decision, RUN, width).cell_len <= width


@given(st.floats(0.0, 1.0), st.integers(0, 30))
def test_a_bar_has_exactly_its_width_and_shows_what_is_possible(probability, width):
    drawn = bar(probability, width)
    assert len(drawn) == width
    assert bool(drawn.strip()) == (probability > 0 and width > 0)

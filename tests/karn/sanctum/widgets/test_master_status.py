"""The master status."""

import pytest

from esper.karn.sanctum.drawing.big_words import big_word
from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.overview.master_status import master_word, render_master, render_reasons
from esper.karn.store.liveness import StatusKind
from esper.karn.text.palette import DARK
from esper.leyline.health import Level, Verdict


def test_a_lit_head_is_critical_and_the_reason_names_it(views):
    line = render_master(views.view(views.broken()), 80, 1)
    assert line.plain.startswith(" ● CRITICAL ")
    assert "op went Inf" in line.plain
    assert DARK.critical in str(line.spans[0].style)


@pytest.mark.parametrize(
    ("level", "word"),
    [
        (Level.OK, "HEALTHY"),
        (Level.NOTICE, "NOTICE"),
        (Level.WARNING, "WARNING"),
        (Level.CRITICAL, "CRITICAL"),
    ],
)
def test_each_level_has_a_word_in_plain_and_in_large_letters(views, level, word):
    view = views.view(verdict=Verdict(level, ("a reason", "another")))
    assert f"● {word}" in render_master(view, 80, 1).plain
    large = render_master(view, 44, 5).plain
    assert all(row in large for row in big_word(word))
    assert "a reason (+1 more: w)" in large


@pytest.mark.parametrize("length", range(5, 120, 3))
def test_the_number_of_further_reasons_is_never_torn_or_cut_off(views, length):
    view = views.view(verdict=Verdict(Level.CRITICAL, ("word " * length, *"abcd")))
    assert "(+4 more: w)" in render_master(view, 46, 5).plain


@pytest.mark.parametrize("width", [20, 80, 200])
def test_every_reason_can_have_its_own_line(views, width):
    reasons = ("the first reason, which is a long one", "a second", "a third")
    view = views.view(verdict=Verdict(Level.WARNING, reasons))
    lines = render_reasons(view, width).plain.splitlines()
    assert lines[0].startswith(" ● WARNING   the first")
    assert " ".join(line.removeprefix(" ● WARNING ").strip() for line in lines) == " ".join(reasons)
    assert [line.strip() for line in lines[-2:]] == ["a second", "a third"]


def test_red_and_amber_are_for_alerts_only(views):
    alerts = {DARK.critical, DARK.warning}
    for level in (Level.OK, Level.NOTICE):
        text = render_master(views.view(verdict=Verdict(level)), 44, 5)
        assert not any(alert in str(span.style) for span in text.spans for alert in alerts)


def test_a_run_that_cannot_be_read_is_not_called_healthy(views):
    assert master_word(views.view(error="the store is damaged")) == "NO DATA"


def test_a_latch_outranks_a_store_that_cannot_be_read_any_more(views):
    assert master_word(views.view(views.broken(), error="the store is gone")) == "CRITICAL"


def test_before_the_first_run_it_waits(views):
    view = views.waiting()
    assert master_word(view) == "WAITING"
    assert "waiting for the first run in /runs" in render_master(view, 80, 1).plain


def test_a_dead_process_is_critical(views):
    view = views.view(kind=StatusKind.DEAD, sentence="process 7 is gone and reported no end")
    assert "process 7 is gone" in render_master(view, 80, 1).plain
    assert master_word(view) == "CRITICAL"


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("width", [5, 20, 44, 200])
def test_it_fills_its_place_and_no_more(views, width, height):
    lines = render_master(views.view(views.broken()), width, height).split("\n", allow_blank=True)
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize(
    ("lit_now", "expected"),
    [
        ((), "PAST: nothing out of the ordinary"),
        ((("op", "inf"), ("op", "nan")), "PAST: lit since: op; then: nothing out of the ordinary"),
        (
            tuple((head, "nan") for head in ("op", "slot", "tempo")),
            "PAST: lit since: 3 heads; then: nothing out of the ordinary",
        ),
    ],
)
def test_a_healthy_past_is_not_green_and_names_the_lights_lit_since(views, lit_now, expected):
    view = views.view(position=TimePosition(1, 36, lit_now=lit_now))
    line = render_master(view, 120, 1)
    assert line.plain == f" ● HEALTHY   {expected}"
    large = render_master(view, 46, 5)
    assert not any(DARK.good in str(span.style) for text in (line, large) for span in text.spans)
    assert "PAST" in large.plain
    assert "PAST" in render_reasons(view, 80).plain


def test_lights_of_the_past_are_not_repeated_as_lit_since(views):
    view = views.view(views.broken(), position=TimePosition(5, 36, lit_now=(("op", "inf"),)))
    assert "PAST: op went Inf" in render_master(view, 120, 1).plain

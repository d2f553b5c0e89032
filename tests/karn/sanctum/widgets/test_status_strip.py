"""The strip of the further screens: the word and its reason first, then which run it is."""

from dataclasses import replace

from esper.karn.sanctum.fold.attention import Lamps
from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.frame.status_strip import render_strip


def _broken(views, name):
    snapshot = views.broken()
    run = replace(snapshot.run, name=name, run_id="20251122-190000-amber")
    return views.view(replace(snapshot, run=run))


def test_the_time_of_birth_gives_way_to_the_reason(views):
    view = _broken(views, "20251122-190000-amber")
    wide = render_strip(view, 120).plain
    assert "20251122-190000-amber  LIVE" in wide
    narrow = render_strip(view, 80).plain
    assert "op went Inf in logits, update 2 (+3 more: w) " in narrow
    assert " amber  LIVE  update 36" in narrow


def test_a_lamp_test_says_nothing_of_what_was_seen(views):
    strip = render_strip(_broken(views, "amber"), 120, lamps=Lamps(is_test=True)).plain
    assert "LAMP TEST  all lights are shown as on, nothing is stored" in strip


def test_a_name_that_is_only_a_time_stays(views):
    assert " 20251122-190000-" in render_strip(_broken(views, "20251122-190000-"), 80).plain


def test_no_width_is_too_small_for_the_word(views):
    view = _broken(views, "a name that is far too long for any strip of a terminal, and goes on")
    for width in range(15, 100):
        strip = render_strip(view, width)
        assert strip.cell_len <= width
        assert "CRITICAL" in strip.plain


def test_a_past_moment_is_called_so(views):
    strip = render_strip(views.view(position=TimePosition(1, 5)), 120).plain
    assert "HEALTHY  PAST: " in strip
    assert strip.endswith("amber   PAST, update 1 of 5   now LIVE")

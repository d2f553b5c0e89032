"""The run header."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.frame.run_header import elapsed_seconds, render_header, status_text
from esper.karn.sanctum.schema import InterventionState, RunState, SanctumSnapshot
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.text.palette import DARK


@pytest.mark.parametrize(("width", "height"), [(78, 2), (78, 3), (72, 5), (150, 5)])
def test_it_says_which_run_how_far_and_how_fast(views, width, height):
    text = render_header(views.view(), width, height).plain
    for expected in (
        "amber",
        "LIVE",
        "task mnist1d",
        "update 36",
        "episodes 288/400",
        "72%",
        "118 steps/s",
        "elapsed 1:06:40",
    ):
        assert expected in text
    assert len(text.split("\n")) == height


@pytest.mark.parametrize("kind", list(StatusKind))
def test_every_status_has_its_word(kind):
    assert str(kind) in status_text(RunStatus(kind, 3.0, ""), DARK).plain


def test_a_run_without_events_has_the_name_of_its_directory(views):
    nothing = views.view(SanctumSnapshot(), directory=Path("runs/20261124-cedar"))
    assert render_header(nothing, 78, 2).plain.startswith("20261124-cedar")


def test_a_silent_run_says_for_how_long():
    assert status_text(RunStatus(StatusKind.STALE, 42.4, ""), DARK).plain == "STALE 42 s"


@pytest.mark.parametrize("kind", [StatusKind.FINISHED, StatusKind.STOPPED, StatusKind.LIVE])
def test_a_normal_status_is_not_shown_as_an_alert(kind):
    style = str(status_text(RunStatus(kind, 1.0, ""), DARK).style)
    assert DARK.critical not in style
    assert DARK.warning not in style


def test_the_clock_of_a_run_that_is_over_stands_still(views):
    run = RunState(started_at=100.0, last_event_at=160.0)
    over = RunStatus(StatusKind.FINISHED, None, "finished")
    live = RunStatus(StatusKind.LIVE, 1.0, "")

    def elapsed(run, status, now, position=None):
        snapshot = replace(SanctumSnapshot(), run=run)
        return elapsed_seconds(views.view(snapshot, kind=status.kind, now=now, position=position))

    assert elapsed(run, over, 10_000.0) == 60.0
    assert elapsed(run, live, 190.0) == 90.0
    assert elapsed(run, live, 190.0, TimePosition(1, 2)) == 60.0, "of a past moment, as it was then"
    assert elapsed(RunState(), over, 1.0) is None


@pytest.mark.parametrize(
    "field", ["events_lost", "damaged_events", "unknown_events", "monitor_failures"]
)
def test_lost_events_are_shown_in_amber(views, field):
    snapshot = views.healthy()
    view = views.view(replace(snapshot, run=replace(snapshot.run, **{field: 3})))
    text = render_header(view, 150, 5)
    expected = f"3 {field.replace('_', ' ')}"
    assert expected in text.plain
    place = text.plain.index(expected)
    assert DARK.warning in [
        str(span.style) for span in text.spans if span.start <= place < span.end
    ]


def _styles_of(text, words):
    place = text.plain.index(words)
    return [str(span.style) for span in text.spans if span.start <= place < span.end]


@pytest.mark.parametrize(("width", "height"), [(78, 2), (78, 3), (72, 5), (150, 5)])
def test_interventions_are_shown_in_amber(views, width, height):
    done = InterventionState(updates_repeated=3, updates_skipped=4, updates_rolled_back=2, halts=1)
    snapshot = replace(views.healthy(), interventions=done)
    text = render_header(views.view(snapshot), width, height)
    expected = "3 repeated, 4 skipped, 2 rolled back, 1 halted"
    assert expected in text.plain
    assert DARK.warning in _styles_of(text, expected)
    assert "elapsed 1:06:40" in text.plain


@pytest.mark.parametrize(("width", "height"), [(78, 2), (78, 3), (72, 5), (150, 5)])
def test_incidents_are_counted_without_an_alert_of_their_own(views, width, height):
    done = InterventionState(updates_skipped=5, incidents=5, incidents_not_kept=2)
    snapshot = replace(views.healthy(), interventions=done)
    text = render_header(views.view(snapshot), width, height)
    assert "incidents 5, not kept 2" in text.plain
    assert DARK.warning not in _styles_of(text, "incidents 5")


def test_of_a_run_without_interventions_none_are_mentioned(views):
    for height in (2, 3, 5):
        text = render_header(views.view(), 150, height).plain
        assert not any(word in text for word in ("skipped", "rolled back", "halted", "incident"))


def test_a_halted_run_says_so_in_red(views):
    text = render_header(views.view(kind=StatusKind.HALTED, sentence="halted itself"), 78, 2)
    assert f"bold {DARK.critical}" in _styles_of(text, "HALTED")


def test_before_the_first_event_it_is_blank_but_whole(views):
    text = render_header(views.waiting(), 78, 2).plain
    assert "WAITING" in text
    assert "episodes –" in text


@pytest.mark.parametrize("width", range(1, 80, 3))
def test_it_never_exceeds_its_width(views, width):
    for height in (2, 3, 5):
        for snapshot in (views.healthy(), views.broken()):
            lines = render_header(views.view(snapshot), width, height).split("\n")
            assert max(line.cell_len for line in lines) <= width


@pytest.mark.parametrize(("width", "height"), [(78, 2), (78, 3), (72, 5), (150, 5)])
def test_a_past_moment_is_marked_next_to_the_current_status(views, width, height):
    view = views.view(kind=StatusKind.FINISHED, position=TimePosition(1, 5))
    assert "amber   PAST, update 1 of 5   now FINISHED" in render_header(view, width, height).plain

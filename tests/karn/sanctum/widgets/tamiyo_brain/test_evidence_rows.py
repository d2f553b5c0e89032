"""The list of the Heads screen."""

from dataclasses import replace

import pytest

from esper.karn.sanctum.fold.attention import Lamps
from esper.karn.sanctum.heads.evidence_rows import render_rows, rows_of
from esper.karn.sanctum.schema import Evidence, FirstSighting, RunState, SanctumSnapshot
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import (
    DISPLAY_TO_LEYLINE_KEY,
    FIRST_OUT_MARK,
    LIT,
    UNKNOWN,
    UNLIT,
)
from esper.karn.store.run_files.acknowledgements import Acknowledgement

NOON = 1_763_812_800.0


@pytest.fixture
def plain(views):
    """Return a function that renders a snapshot's rows as strings."""

    def render(snapshot, width=120, lamps=None, **more):
        view = views.view(snapshot, **more)
        return [line.plain for line in render_rows(view, width, lamps=lamps or Lamps())]

    return render


def test_every_kind_in_every_quantity_has_a_row_and_every_other_head_one(views, plain):
    lines = plain(views.broken())
    assert len(lines) == 1 + 2 + 7
    assert "Inf in logits" in lines[1]
    assert "NaN in log_prob" in lines[2]
    assert sum("neither Inf nor NaN" in line for line in lines) == 7
    assert all(any(name in line for line in lines) for name in DISPLAY_TO_LEYLINE_KEY)


def test_a_row_says_all_that_is_known_of_it(views, plain):
    heading, first, second, *_ = plain(views.broken())
    for name, value in {"updates": "2", "minib.": "3", "first": "2/1/1", "last": "36/4/2"}.items():
        assert first[heading.index(name) :].split()[0] == value
    assert first[heading.index("now") :].startswith("now")
    assert second[heading.index("now") :].startswith("   ")


def test_the_first_out_is_marked_and_it_alone(views, plain):
    lines = plain(views.broken())
    assert [FIRST_OUT_MARK in line for line in lines[1:]] == [True, *[False] * 8]
    assert [LIT in line for line in lines[1:]] == [True, True, *[False] * 7]
    assert [UNLIT in line for line in lines[1:]] == [False, False, *[True] * 7]


def test_of_a_run_that_cannot_be_read_no_light_is_called_dark(views, plain):
    lines = plain(views.broken(), is_unread=True)
    assert [UNKNOWN in line for line in lines[1:]] == [False, False, *[True] * 7]
    assert [LIT in line for line in lines[1:]] == [True, True, *[False] * 7]
    assert not any(UNLIT in line or "neither Inf nor NaN" in line for line in lines)


def test_the_user_and_time_of_an_acknowledgement_are_shown_at_its_light(views, plain):
    seen = (
        Acknowledgement("op", "inf", "ana@lab", NOON),
        Acknowledgement("op", "inf", "ben@lab", NOON + 600),
    )
    _, first, second, *_ = plain(views.broken(), acknowledgements=seen, now=NOON + 900)
    assert first.rstrip().endswith("ana@lab")
    assert second.rstrip().endswith("–")


def test_another_days_acknowledgement_says_its_day(views, plain):
    seen = (Acknowledgement("op", "nan", "ana@lab", NOON),)
    lines = plain(views.broken(), acknowledgements=seen, now=NOON + 3 * 86_400)
    assert "11-22 " in lines[2]


def test_the_lamp_test_lights_every_row(views, plain):
    lines = plain(views.broken(), lamps=Lamps(is_test=True))
    assert all(LIT in line for line in lines[1:])


def test_the_shared_part_is_named(views, plain):
    shared = Evidence("shared", "value", "nan", 3, 1, 1, 3, 1, 1, 1, 1, is_active=False)
    snapshot = views.broken()
    tamiyo = replace(snapshot.tamiyo, evidence=(*snapshot.tamiyo.evidence, shared))
    assert any("shared part" in line for line in plain(replace(snapshot, tamiyo=tamiyo)))


@pytest.fixture
def transient(views):
    """A snapshot with a row that has details beyond its columns, and a reproduced one."""
    rows = (
        Evidence(
            *("alpha_target", "old_log_prob", "-inf", 998, 0, 0, 999, 0, 0, 2, 0),
            is_active=True,
            first_phase="preparation",
            first_host=3,
            first_step=7,
            last_phase="preparation",
            reproduced=False,
        ),
        Evidence("hosts", "loss", "nan", 999, 0, 0, 999, 0, 0, 1, 0, is_active=True),
    )
    snapshot = views.broken()
    return replace(snapshot, tamiyo=replace(snapshot.tamiyo, evidence=rows))


def test_with_room_the_place_stands_in_its_row_in_words(transient, plain):
    heading, first, second, *_ = plain(transient, width=160)
    assert "repr." not in heading
    place = heading.index("where")
    assert first[place:].startswith("while preparing, host 4, step 7, not reproduced")
    assert second[place:].startswith("   ")
    assert "hosts  " in second


@pytest.mark.parametrize("width", [75, 78, 100])
def test_without_room_it_is_marked_what_was_not_reproduced(transient, plain, width):
    heading, first, second, *_ = plain(transient, width=width)
    assert "where" not in heading
    place = heading.index("repr.")
    assert first[place:].startswith("no ")
    assert second[place:].startswith("   ")
    for line in (heading, first, second):
        assert "…" not in line[: heading.index("acknow")]


def test_columns_with_nothing_to_say_are_not_there(views, plain):
    heading = plain(views.broken(), width=190)[0]
    assert "where" not in heading
    assert "repr." not in heading


def test_heads_of_another_agent_have_rows(views, plain):
    snapshot = SanctumSnapshot(run=RunState(heads={"steer": ("left", "right"), "gas": ("on",)}))
    tamiyo = replace(
        snapshot.tamiyo,
        head_inf_latch={"steer": True, "gas": False},
        evidence=(Evidence("steer", "logits", "-inf", 1, 0, 0, 1, 0, 0, 1, 0, is_active=True),),
        first=(FirstSighting("steer", "-inf", "logits", 1, 0, 0),),
    )
    lines = plain(replace(snapshot, tamiyo=tamiyo))
    assert "-Inf in logits" in lines[1]
    assert [row.head for row in rows_of(views.view(replace(snapshot, tamiyo=tamiyo)))] == [
        "steer",
        "gas",
    ]


@pytest.mark.parametrize("width", [*range(1, 60, 7), 75, 78])
def test_no_row_is_wider_than_its_place_or_cut_without_saying_so(views, plain, width):
    seen = (Acknowledgement("op", "inf", "somebody-with-a-long-name@a-machine", NOON),)
    lines = plain(views.broken(), width=width, acknowledgements=seen, now=NOON)
    if width >= 75:
        assert all(len(line) <= width for line in lines)
        assert "12:00 some" in lines[1]
        assert lines[1].endswith("…")


def test_without_room_the_name_goes_without_its_machine(views, plain):
    seen = (Acknowledgement("op", "inf", "ana@lab", NOON),)
    lines = plain(views.broken(), width=78, acknowledgements=seen, now=NOON)
    assert lines[1].rstrip().endswith("12:00 ana")


def test_every_row_has_a_key_of_its_own(views):
    view = views.view(views.broken())
    keys = [row.key for row in rows_of(view)]
    assert len(set(keys)) == len(keys)

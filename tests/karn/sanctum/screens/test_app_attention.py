"""Latch manners: what a new light does, who has seen it, and the lamp test."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.light_controls import LightControls
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.fold.attention import Lamps, lit_lights, unacknowledged
from esper.karn.sanctum.fold.verdict import master_verdict
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import LIT, UNLIT, render_heads
from esper.karn.store.run_files.acknowledgements import Acknowledged, Acknowledgement, read

SEEN = (
    Acknowledgement("op", "inf", "ada@lab", 1_763_840_000.0),
    Acknowledgement("op", "nan", "ada@lab", 1_763_840_000.0),
)


@pytest.fixture
def bells(monkeypatch):
    """Return a list that grows when the app rings."""
    rung = []
    monkeypatch.setattr(SanctumApp, "bell", lambda app: rung.append(app))
    return rung


async def test_a_new_light_rings_once(views, sanctum, seen, bells):
    app = sanctum(views.view(views.healthy()))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        assert bells == []
        for _ in range(3):
            app.shown.append(views.view(views.broken()))
            await seen(pilot)
        assert len(bells) == 1
        await pilot.press("comma", "n")  # going back and returning is no new light
        await seen(pilot)
        assert len(bells) == 1


@pytest.mark.parametrize("settings", [Settings(bell=False), None])
async def test_it_does_not_ring_where_that_is_not_wanted(views, sanctum, seen, bells, settings):
    known = () if settings else SEEN
    app = sanctum(
        views.view(views.broken(), acknowledgements=known), settings=settings or Settings()
    )
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        assert bells == []


def _lamp_styles(app):
    panel = app.screen.query_one("#heads")
    strips = [panel.render_line(y) for y in range(panel.scrollable_content_region.height)]
    (row,) = [strip for strip in strips if strip.text.startswith("Inf")]
    return [segment.style.reverse for segment in row if LIT in segment.text]


async def test_it_blinks_until_it_is_acknowledged_and_stays_lit(views, sanctum, seen, screen_text):
    app = sanctum(views.view(views.broken()), settings=Settings())
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        assert any("2 lights not acknowledged" in line for line in screen_text(app))
        phases = set()
        changes = []
        deadline = time.monotonic() + 10
        while len(changes) < 3 and time.monotonic() < deadline:
            (phase,) = _lamp_styles(app)
            if not changes or phase != changes[-1][0]:
                changes.append((phase, time.monotonic()))
            phases.add(bool(phase))
            await pilot.pause(0.02)
        assert phases == {True, False}
        assert changes[2][1] - changes[0][1] > 0.5  # a blink, which is two changes, takes long
        app.shown.append(views.view(views.broken(), acknowledgements=SEEN))
        await seen(pilot)
        assert not any(_lamp_styles(app))
        text = "\n".join(screen_text(app))
        assert "Op Inf, Op NaN acknowledged by ada@lab at 2025-11-22" in text
        assert "not acknowledged" not in text
        before = _lamp_styles(app)
        await pilot.pause(0.7)
        assert _lamp_styles(app) == before


async def test_with_reduced_motion_it_stands_out_without_blinking(views, sanctum, seen):
    app = sanctum(views.view(views.broken()), settings=Settings(reduced_motion=True, closing=False))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        for _ in range(8):
            assert _lamp_styles(app) == [True]
            await pilot.pause(0.1)


def test_acknowledged_and_new_lights_look_different(views):
    view = views.view(views.broken())
    assert (
        unacknowledged(view)
        == {("op", "inf"), ("op", "nan")}
        == set(lit_lights(view.snapshot.tamiyo))
    )
    assert unacknowledged(replace(view, acknowledgements=SEEN[:1])) == {("op", "nan")}


async def test_the_lamp_test_lights_every_lamp_says_so_and_passes(
    views, sanctum, seen, screen_text, monkeypatch
):
    monkeypatch.setattr("esper.karn.sanctum.cockpit.light_controls.LAMP_TEST_SECONDS", 0.3)
    app = sanctum(views.view(views.healthy()))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        before = screen_text(app)
        assert not any(LIT in line for line in before[4:])
        await pilot.press("t")
        await pilot.pause()
        lines = screen_text(app)
        for label in ("Inf", "NaN"):
            (row,) = [line for line in lines if line.strip().startswith(label)]
            assert row.count(LIT) == 8
            assert UNLIT not in row
        assert any("LAMP TEST" in line for line in lines)
        await pilot.pause(0.5)
        assert screen_text(app) == before
    assert app.asked == []


def test_the_lamp_test_lights_the_lamps_of_the_groups_too(views):
    text = render_heads(views.healthy(), 80, lamps=Lamps(is_test=True)).plain
    (groups,) = [line for line in text.splitlines() if line.startswith("Shared")]
    assert groups.count(LIT) == 4


async def test_a_without_lights_says_that_there_are_none(views, sanctum, seen):
    app = sanctum(views.view(views.healthy()))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("a")
        (note,) = app._notifications
        assert note.message == "no light is on: there is nothing to acknowledge"


async def test_a_full_disk_is_reported_and_the_light_stays_unacknowledged(
    views, sanctum, seen, tmp_path, full_disk
):
    app = sanctum(views.view(views.broken(), directory=tmp_path))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        with full_disk():
            await pilot.press("a")
            deadline = time.monotonic() + 20
            while not app._notifications:
                assert time.monotonic() < deadline, "nothing was expected"
                await pilot.pause(0.01)
        (note,) = app._notifications
        assert note.message.startswith("the acknowledgement cannot be written to")
        assert unacknowledged(app.view)
    assert read(tmp_path) == Acknowledged()


async def test_on_the_heads_screen_the_light_of_the_chosen_row_is_acknowledged(
    views, sanctum, seen, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        LightControls, "_acknowledge", lambda controls, lights, left: asked.append(lights)
    )
    app = sanctum(views.view(views.broken(), directory=Path("/runs/amber")))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pilot.press("A", "2")
        await seen(pilot)
        await pilot.press("a", "down", "a")
        await pilot.pause()
    every, first, second = asked
    assert every == [("op", "inf"), ("op", "nan")]
    assert first == [("op", "inf")]
    assert second == [("op", "nan")]


async def test_a_acknowledges_one_light_after_the_other_and_capital_a_all(
    views, sanctum, seen, tmp_path, screen_text
):
    view = views.view(views.broken(), directory=tmp_path)
    app = sanctum(view)
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        assert "a Ack  A Ack all" in screen_text(app)[-1]

        async def acknowledged(key, lights):
            await pilot.press(key)
            deadline = time.monotonic() + 20
            while len(read(tmp_path).entries) < lights:
                assert time.monotonic() < deadline, "nothing was acknowledged"
                await pilot.pause(0.01)
            await pilot.pause()
            app.shown.append(replace(view, acknowledgements=read(tmp_path).entries))
            await seen(pilot)
            return [note.message for note in app._notifications][-1]

        notice = await acknowledged("a", 1)
        assert notice == "acknowledged: op Inf; 1 light remains: a for the next, A for all"
        assert [(one.head, one.light) for one in read(tmp_path).entries] == [("op", "inf")]
        assert await acknowledged("A", 2) == "acknowledged: op NaN"
        assert "Ack all" not in screen_text(app)[-1]
        await pilot.press("a")
        await pilot.pause()
        assert [note.message for note in app._notifications][-1] == (
            "all lights are acknowledged already"
        )


async def test_a_row_without_a_light_says_what_to_press(views, sanctum, seen):
    app = sanctum(views.view(views.broken(), directory=Path("/runs/amber")))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pilot.press("2")
        await seen(pilot)
        await pilot.press("end", "a")
        (note,) = app._notifications
        assert "press A for all lights" in note.message


async def test_the_banner_keeps_the_first_out_and_names_the_key_for_more(
    views, sanctum, seen, screen_text
):
    known = (Acknowledgement("op", "inf", "ada@lab", 1.0), Acknowledgement("op", "nan", "a", 1.0))
    snapshot = views.broken()
    for lights in ((), known[:1], known):
        view = views.view(
            snapshot,
            acknowledgements=lights,
            verdict=master_verdict(
                snapshot,
                views.view(snapshot).status,
                [(one.head, one.light) for one in lights],
            ),
        )
        app = sanctum(view)
        async with app.run_test(size=(120, 40)) as pilot:
            await seen(pilot)
            await pilot.press("5")
            await seen(pilot)
            strip = screen_text(app)[0]
            assert "op" in strip
            assert "Inf" in strip
            assert "update 2" in strip
            assert "more: w)" in strip

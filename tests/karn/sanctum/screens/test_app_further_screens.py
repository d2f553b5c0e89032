"""The Hosts and the Decisions screen: what must be seen at which size, and what follows."""

import math
from dataclasses import replace

import pytest

from esper.karn.sanctum.decisions.decision_panels import DecisionPanel
from esper.karn.sanctum.decisions.screen import DecisionsScreen
from esper.karn.sanctum.drawing.panel import Panel
from esper.karn.sanctum.frame.run_screen import SMALLEST
from esper.karn.sanctum.hosts.screen import HostsScreen
from esper.karn.sanctum.schema import HeadDecision, SanctumSnapshot
from esper.leyline.head_figures import CHARTED_FIGURES, HeadFigures

SIZES = [(80, 24), (120, 40), (200, 60), SMALLEST]


@pytest.fixture
def opened(views, sanctum, seen):
    """Return a function that opens a screen over a snapshot and runs a test on it."""

    async def run(key, test, size=(80, 24), snapshot=None):
        app = sanctum(views.view(snapshot or views.drilled()))
        async with app.run_test(size=size) as pilot:
            await seen(pilot)
            await pilot.press(key)
            await pilot.pause()
            await seen(pilot)
            await test(pilot, app)

    return run


@pytest.mark.parametrize("size", SIZES)
async def test_one_host_is_seen_from_all_sides(opened, screen_text, size):
    async def test(pilot, app):
        assert isinstance(app.screen, HostsScreen)
        text = "\n".join(screen_text(app))
        for expected in (
            "Hosts",
            "Curves of host 1",
            "Accuracy",
            "0.5000",
            "Loss",
            "1.2500",
            "potential 0.062",
            "Growth of host 1",
            "Network of host 1",
            "attention",
            "classes",
            "858 of the host",
        ):
            assert expected in text
        for panel in app.screen.query(Panel):
            assert panel.size.height > 0 or not panel.display
            assert app.screen.region.contains_region(panel.region)

    await opened("3", test, size)


async def test_the_panels_follow_the_chosen_host(opened, screen_text):
    async def test(pilot, app):
        await pilot.press("down", "down", "down")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        for expected in ("Curves of host 4", "Accuracy 0.5938", "933 grown", "◆ conv"):
            assert expected in text

    await opened("3", test)


@pytest.mark.parametrize("size", SIZES)
async def test_a_decision_is_seen_whole(opened, screen_text, size):
    async def test(pilot, app):
        assert isinstance(app.screen, DecisionsScreen)
        text = "\n".join(screen_text(app))
        for expected in (
            "update 37, step 11 of 24",
            "host 1",
            "value 0.500",
            "»GERMINATE",
            "illegal",
        ):
            assert expected in text
        if size != SMALLEST:
            for head in ("Op", "Slot", "Blueprint", "Style", "Tempo", "αTarget", "αSpeed"):
                assert head in text
            assert "sigmoid_steep" in text

    await opened("4", test, size)


async def test_in_a_large_terminal_the_next_host_stands_below(opened):
    async def test(pilot, app):
        await pilot.press("down")
        await pilot.pause()
        text = app.screen.query_one(DecisionPanel).text
        assert text.count("»GERMINATE") == 2
        assert "\nhost 3   GERMINATE" in text
        assert "host 4" not in text

    await opened("4", test, (200, 60))


async def test_the_heads_follow_the_chosen_host(opened, screen_text):
    async def test(pilot, app):
        await pilot.press("end")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        assert "Heads, host 8" in text
        assert "host 8   GERMINATE" in text

    await opened("4", test)


def _hostile(views):
    """Return a run in which nothing is as it should be."""
    snapshot = views.drilled(64)
    nan = (math.nan, math.inf, -math.inf, 1e308)
    hosts = tuple(
        replace(
            host,
            accuracy=math.nan,
            loss=math.inf,
            reward=-math.inf,
            accuracy_history=nan,
            loss_history=nan,
            reward_history=nan,
            parameters_history=(),
            slots=(),
            slot_history=((), ()),
            reward_terms={"rent": math.nan},
        )
        for host in snapshot.hosts
    )
    decisions = tuple(
        replace(
            one,
            value=math.nan,
            heads=(HeadDecision("steer", 9, math.nan, True, (math.inf, 2.0)),),
        )
        for one in snapshot.decisions
    )
    heads = {"steer": ("left", "right")}
    tamiyo = replace(
        snapshot.tamiyo,
        head_inf_latch={"steer": True},
        head_history={figure.field: {"steer": nan} for figure in CHARTED_FIGURES},
        figures=HeadFigures(head_entropy={"steer": math.nan}),
    )
    run = replace(snapshot.run, heads=heads, slots=(), blueprints=())
    return replace(snapshot, run=run, hosts=hosts, decisions=decisions, tamiyo=tamiyo)


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (30, 8)])
@pytest.mark.parametrize("key", ["1", "2", "3", "4"])
async def test_nothing_that_a_run_can_hold_breaks_a_screen(opened, views, key, size):
    async def test(pilot, app):
        for keys in ("down", "enter", "end", "home", "escape"):
            await pilot.press(keys)
            await pilot.pause()

    await opened(key, test, size, _hostile(views))


@pytest.mark.parametrize("key", ["3", "4"])
async def test_before_the_first_step_a_screen_says_so(opened, screen_text, key):
    async def test(pilot, app):
        text = "\n".join(screen_text(app))
        assert "no step completed yet" in text or "no decision yet" in text

    await opened(key, test, snapshot=SanctumSnapshot())


@pytest.mark.parametrize("key", ["2", "3", "4"])
async def test_screens_follow_the_theme(opened, key):
    async def test(pilot, app):
        before = app.export_screenshot()
        await pilot.press("d")
        await pilot.pause()
        assert app.export_screenshot() != before

    await opened(key, test)

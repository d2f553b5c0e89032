"""Approved pictures of the whole screen.

After a deliberate change: `uv run pytest tests/karn/sanctum/screens/test_app_snapshots.py
--snapshot-update`, and review the new pictures.
"""

import math

import pytest

from esper.karn.reports.run_comparison import Compared, RunComparison
from esper.karn.reports.run_folder.run_summary import RunSummary
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.fold.doubt import Doubt
from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.sanctum.frame.run_screen import RunsUpdated
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.store.run_files.acknowledgements import Acknowledgement

START = 1_763_838_000.0
SIZES = [(80, 24), (120, 40), (200, 60)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", ["healthy", "broken"])
def test_overview(views, sanctum, seen, snap_compare, state, size):
    hosts = 16 if size[0] == 200 else 8
    app = sanctum(views.view(getattr(views, state)(hosts)))
    assert snap_compare(app, terminal_size=size, run_before=seen)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_color(views, sanctum, seen, snap_compare, monkeypatch, size):
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(sanctum(views.view(views.broken())), terminal_size=size, run_before=seen)


def test_light(views, sanctum, seen, snap_compare):
    async def switch(pilot):
        await seen(pilot)
        await pilot.press("d")
        await pilot.pause()

    assert snap_compare(
        sanctum(views.view(views.broken())), terminal_size=(120, 40), run_before=switch
    )


def test_waiting(views, sanctum, seen, snap_compare):
    assert snap_compare(sanctum(views.waiting()), terminal_size=(80, 24), run_before=seen)


def test_quit_dialog(views, sanctum, seen, child, snap_compare):
    async def ask(pilot):
        await seen(pilot)
        await pilot.press("q")
        await pilot.pause()

    app = sanctum(views.view(), child=child)
    assert snap_compare(app, terminal_size=(80, 24), run_before=ask)


def test_help(views, sanctum, seen, snap_compare):
    async def ask(pilot):
        await seen(pilot)
        await pilot.press("question_mark")
        await pilot.pause()

    app = sanctum(views.view())
    assert snap_compare(app, terminal_size=(120, 40), run_before=ask)


@pytest.fixture
def summaries(tmp_path):
    """Return runs of every kind."""

    def summary(number, kind, **more):
        directory = tmp_path / f"20251122-19000{number}-amber"
        known = {
            "run_id": directory.name,
            "path": directory,
            "status": RunStatus(kind, 12.0, "as it is"),
            "name": "amber",
            "started_at": START + 60 * number,
            "update": 12 * number,
            "episodes_done": 96 * number,
            "episodes": 400,
            "score": 0.5,
            "inf_heads": (),
            "nan_heads": (),
            "inf_groups": (),
            "nan_groups": (),
            "task": "mnist1d",
            "best_score": 0.55,
        }
        return RunSummary(**known | more)

    return (
        summary(1, StatusKind.FINISHED),
        summary(2, StatusKind.HALTED, inf_heads=("op", "slot"), nan_heads=("op",), incidents=3),
        summary(3, StatusKind.DEAD, score=math.nan, nan_groups=("shared",)),
        summary(
            4,
            StatusKind.WAITING,
            doubt=Doubt(error="run.sqlite is damaged: file is not a database", is_unread=True),
        ),
        summary(5, StatusKind.LIVE),
    )


def _opening(seen, *keys):
    """Return what is done before the picture is taken: some keys, once the run is shown."""

    async def press(pilot):
        await seen(pilot)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await seen(pilot)
        await pilot.pause()

    return press


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_log(views, sanctum, seen, snap_compare, size):
    app = sanctum(views.view(views.broken()))
    assert snap_compare(app, terminal_size=size, run_before=_opening(seen, "5"))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_runs(views, sanctum, seen, summaries, snap_compare, size):
    async def show(pilot):
        await _opening(seen, "6")(pilot)
        pilot.app.screen.on_runs_updated(RunsUpdated(summaries))
        await pilot.press("down", "space")
        await pilot.pause()

    app = sanctum(views.view(views.broken()))
    app._poller._read_runs = lambda _screen: False  # there is no folder behind this
    assert snap_compare(app, terminal_size=size, run_before=show)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_comparison(views, sanctum, seen, summaries, snap_compare, size):
    found = RunComparison(
        summaries[:3],
        settings=(
            Compared("inject", (["op:inf@2", "slot.log_prob:nan@17"], [], [])),
            Compared("learning_rate", (0.003, 0.001, 0.003)),
            Compared("seed", (1, 1, 1)),
        ),
        figures=(Compared("score", (0.55, 0.5, math.nan)), Compared("updates", (36, 12, 24))),
        histories=(
            Compared("Score", ((0.4, 0.45, 0.5, 0.55), (0.4, 0.42, 0.5), (0.3, math.nan))),
            Compared("Entropy", ((3.0, 2.5, 2.25, 2.0), (3.0, 2.75, math.inf), (3.0, 2.0))),
        ),
    )

    async def show(pilot):
        await _opening(seen, "6")(pilot)
        screen = pilot.app.screen
        screen.on_runs_updated(RunsUpdated(summaries))
        screen.add_class("-compared")
        screen._show_comparison(found)
        await pilot.pause()

    app = sanctum(views.view(views.broken()))
    app._poller._read_runs = lambda _screen: False  # there is no folder behind this
    assert snap_compare(app, terminal_size=size, run_before=show)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_ascii(views, sanctum, seen, snap_compare, size):
    settings = Settings(ascii=True, reduced_motion=True)
    app = sanctum(views.view(views.broken()), settings=settings)
    assert snap_compare(app, terminal_size=size, run_before=seen)


@pytest.mark.parametrize("theme", ["light", "ansi", "contrast"])
def test_acknowledged_in_the_past(views, sanctum, seen, snap_compare, theme):
    seen_by = tuple(Acknowledgement("op", light, "ada@lab", START) for light in ("inf", "nan"))
    view = views.view(
        views.broken(), acknowledgements=seen_by, position=TimePosition(20, 36, speed=4)
    )
    app = sanctum(view, settings=Settings(theme=theme))
    assert snap_compare(app, terminal_size=(120, 40), run_before=seen)


def test_lamp_test(views, sanctum, seen, snap_compare, monkeypatch):
    monkeypatch.setattr("esper.karn.sanctum.cockpit.light_controls.LAMP_TEST_SECONDS", 60)
    app = sanctum(views.view(views.healthy()))
    assert snap_compare(app, terminal_size=(80, 24), run_before=_opening(seen, "t"))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_help_on_fields(views, sanctum, seen, snap_compare, size):
    app = sanctum(views.view())
    keys = ("tab", "question_mark", "f")
    assert snap_compare(app, terminal_size=size, run_before=_opening(seen, *keys))

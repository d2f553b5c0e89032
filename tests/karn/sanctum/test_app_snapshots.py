"""Pictures of the whole screen, each looked at and approved by eye.

After a deliberate change: `uv run pytest tests/karn/sanctum/test_app_snapshots.py
--snapshot-update`, and look at the pictures again.
"""

import pytest

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

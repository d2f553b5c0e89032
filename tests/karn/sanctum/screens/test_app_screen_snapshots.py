"""Approved pictures of the Heads, Hosts and Decisions screens.

After a deliberate change: `uv run pytest tests/karn/sanctum/screens/test_app_screen_snapshots.py
--snapshot-update`, and review the new pictures.
"""

import json
from pathlib import Path

import pytest

from esper.karn.sanctum.heads.incident_panel import IncidentPanel
from esper.karn.sanctum.heads.incident_view import ReplayState
from esper.karn.sanctum.heads.replaying import read_report

SIZES = [(80, 24), (120, 40), (200, 60)]
SCREENS = {"heads": "2", "hosts": "3", "decisions": "4"}
RUN = Path("/runs/amber")


def _name(size):
    return f"{size[0]}x{size[1]}"


@pytest.mark.parametrize("size", SIZES, ids=_name)
@pytest.mark.parametrize("screen", SCREENS)
def test_screen(views, sanctum, seen, snap_compare, screen, size):
    async def open_it(pilot):
        await seen(pilot)
        await pilot.press(SCREENS[screen])
        await pilot.pause()
        await seen(pilot)

    hosts = 16 if size[0] == 200 else 8
    app = sanctum(views.view(views.drilled(hosts), directory=RUN))
    assert snap_compare(app, terminal_size=size, run_before=open_it)


@pytest.mark.parametrize("size", SIZES, ids=_name)
def test_replayed_incident(views, sanctum, seen, snap_compare, replay_report, size):
    async def open_it(pilot):
        await seen(pilot)
        await pilot.press("2", "enter")
        await pilot.pause()
        await seen(pilot)
        panel = pilot.app.screen.query_one(IncidentPanel)
        panel._replays[RUN, 1] = ReplayState(8.0, read_report(json.dumps(replay_report)))
        panel.redraw()
        await pilot.pause()

    app = sanctum(views.view(views.drilled(), directory=RUN))
    assert snap_compare(app, terminal_size=size, run_before=open_it)

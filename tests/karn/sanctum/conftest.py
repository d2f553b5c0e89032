"""Views of runs that were never trained, for the widgets and the app that show them."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from cockpit_views import OPERATION, Views

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.fold.view import TimePosition


class Child:
    """A training process that never was; `code` is its exit code, None while it runs."""

    pid = 4711

    def __init__(self):
        self.code = None

    def poll(self):
        return self.code


class FakeObserver:
    """Shows the newest of the views it was given, and keeps what it was asked for."""

    def __init__(self, shown):
        self.shown = shown
        self.asked = []
        self.closed = 0

    def __call__(self, now):
        return self.shown[-1]

    def go_to(self, update):
        self.asked.append(("go_to", update))
        view = self.shown[-1]
        updates = view.snapshot.run.update if view.position is None else view.position.updates
        position = None if update is None else TimePosition(update, updates)
        self.shown.append(replace(view, position=position))

    def play(self, speed):
        self.asked.append(("play", speed))
        view = self.shown[-1]
        self.shown.append(replace(view, position=replace(view.position, speed=speed)))

    def close(self):
        self.closed += 1


@pytest.fixture(autouse=True)
def restless(monkeypatch):
    """Have every panel drawn as soon as what it shows changes."""
    monkeypatch.setattr("esper.karn.sanctum.drawing.panel.REST_SECONDS", 0.0)


@pytest.fixture
def views():
    """Return the maker of views."""
    return Views()


@pytest.fixture(scope="session")
def views_of():
    """Return the same maker, which hypothesis may use in all examples of a test."""
    return Views()


@pytest.fixture
def replay_report():
    """Return what `esper replay --json` prints of an Inf that began in a matrix product."""
    return {
        "run": "20251122-190000-amber",
        "incident": 1,
        "update": 2,
        "verdict": "reproduced",
        "differences": [],
        "remarks": ["torch is 2.15.0 now and was 2.14.1 then"],
        "recorded": [{"head": "op", "quantity": "logits", "kind": "+inf", "count": 1}],
        "seen": [{"head": "op", "quantity": "logits", "kind": "+inf", "count": 1}],
        "poisoned_inputs": [],
        "origin": OPERATION | {"cause": "the weight of op was too large", "inputs": []},
        "chain": [OPERATION, OPERATION, OPERATION | {"op": "aten.add.Tensor", "line": 90}],
    }


@pytest.fixture
def child():
    """Return a live training process."""
    return Child()


@pytest.fixture
def sanctum(monkeypatch):
    """Return a function that makes an app which shows a given view, and any given later."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    def make(view, **more):
        shown = [view]
        observer = FakeObserver(shown)
        # Without blinking, so that a frame does not depend on the moment it is drawn.
        more = {"settings": Settings(reduced_motion=True)} | more
        app = SanctumApp(None, Path("runs"), observer=observer, **more)
        app.shown = shown
        app.asked = observer.asked
        app.watch_given = observer
        return app

    yield make
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def seen():
    """Return a function that waits until an app shows the newest of its views, and rests."""

    async def wait(pilot):
        deadline = time.monotonic() + 20
        while pilot.app.view is not pilot.app.shown[-1]:
            assert time.monotonic() < deadline, "the app never showed its view"
            await pilot.pause(0.01)
        # Widgets draw when they handle later messages, which takes longer on a busy machine.
        before, now = None, []
        while now != before:
            assert time.monotonic() < deadline, "the screen never stopped changing"
            await pilot.pause()
            before, now = now, pilot.app.screen._compositor.render_strips()

    return wait


@pytest.fixture
def screen_text():
    """Return a function that reads what an app has on its screen, a string a line."""

    def read(app):
        lines = app.screen._compositor.render_strips()
        return [strip.text for strip in lines]

    return read

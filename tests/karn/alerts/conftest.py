"""Fixtures for alerts: sinks, and an alert process inside the test process."""

import threading

import pytest

from esper.karn.alerts.alert_types import ALERT_KINDS
from esper.karn.alerts.alerting import Alerting, Sources
from esper.karn.alerts.polling import Rules
from esper.karn.alerts.sinks.sink import SinkError


class Box:
    """A sink that stores its messages, or refuses them."""

    def __init__(self, name="box"):
        self.id = self.name = name
        self.messages = []
        self.refuses = False
        self.arrived = threading.Event()
        self.has_refused = threading.Event()

    def send(self, message):
        if self.refuses:
            self.has_refused.set()
            raise SinkError("refused")
        self.messages.append(message)
        self.arrived.set()
        return "kept"

    def sent_keys(self):
        return [alert.key for message in self.messages for alert in message.alerts]


@pytest.fixture
def box():
    return Box()


@pytest.fixture
def broken():
    """A second sink."""
    return Box("broken")


@pytest.fixture
def alerting_of(box, monkeypatch):
    """A function that creates a new `Alerting` for a folder or a run."""
    monkeypatch.setattr("esper.karn.alerts.alerting.CHECK_SECONDS", 0.05)

    def made(path, *sinks, kinds=ALERT_KINDS, started_at=0.0, report=lambda _: None, **more):
        rules = Rules(frozenset(kinds), 900.0, started_at, **more)
        is_run = (path / "run.sqlite").exists()
        sources = Sources(runs=(path,)) if is_run else Sources(folders=(path,))
        return Alerting(sources, rules, sinks or (box,), (), report, window=0.0)

    return made


@pytest.fixture
def once(alerting_of):
    """A function that checks a folder or a run once, like a new process."""
    return lambda path, *sinks, **rules: alerting_of(path, *sinks, is_single=True, **rules).once()

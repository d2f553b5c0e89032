"""The alert process sends each alert once, across restarts, sinks and processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from received_posts import webhook

from esper.cli import main
from esper.karn.alerts.settings import AlertSettings, WebhookSettings, sinks_of
from esper.karn.store.run_files.acknowledgements import acknowledge
from esper.karn.store.run_store import RunWriter, create_run

TRAINER = """
import sys, os, time, psutil
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from runs_that_end import start_of, update_of
from esper.karn.store.run_store import RunWriter
import msgspec
run = Path(sys.argv[1])
with RunWriter(run) as writer:
    me = {"pid": os.getpid(), "process_start_time": psutil.Process().create_time()}
    writer.emit(msgspec.structs.replace(start_of(run.name), **me), durable=True)
    writer.emit(update_of(1, "op", "+inf"), durable=True)
    print("lit", flush=True)
    time.sleep(600)
"""
ALERTS = """
import sys, time
from pathlib import Path
from esper.karn.alerts.alerting import Alerting, Sources
from esper.karn.alerts.alert_types import DEFAULT_KINDS
from esper.karn.alerts.polling import Rules
from esper.karn.alerts.settings import AlertSettings, WebhookSettings, sinks_of
sinks, _ = sinks_of(AlertSettings(webhook=(WebhookSettings(url=sys.argv[2]),)), Path())
rules = Rules(frozenset(DEFAULT_KINDS), 900.0, time.time() - 3600)
Alerting(Sources(folders=(Path(sys.argv[1]),)), rules, sinks, (), print, window=0.0).watch()
"""


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def support():
    return os.path.join(os.path.dirname(__file__), "..", "..", "support")


def test_one_message_arrives_although_trainer_and_alerts_were_killed(tmp_path, support):
    run = create_run(tmp_path, "drilled")
    python = [sys.executable, "-c"]
    with webhook() as hook:
        hook.code = 503
        trainer = subprocess.Popen(
            [*python, TRAINER, str(run), support], stdout=subprocess.PIPE, text=True
        )
        assert trainer.stdout.readline() == "lit\n"
        alerts = subprocess.Popen(
            [*python, ALERTS, str(tmp_path), hook.url], stdout=subprocess.DEVNULL
        )
        hook.wait_for(1)  # claimed, sent and refused
        killed(trainer)
        killed(alerts)
        hook.code = 200
        for _ in range(2):
            with pytest.raises(SystemExit) as ended:
                main(["alert", str(tmp_path), "--webhook", hook.url, "--once"])
            assert ended.value.code == 0

        refused = json.loads(hook.refused[0][1])
        keys = {alert["key"]: body["id"] for body in hook.messages() for alert in body["alerts"]}
        kinds = [alert["kind"] for body in hook.messages() for alert in body["alerts"]]
    assert sorted(kinds) == ["died", "light"], hook.bodies
    assert keys["light:op:inf"] == refused["id"]


def test_each_alert_is_sent_once_across_restarts(finished_run, box, once):
    assert once(finished_run.parent)
    assert len(box.messages) == 1  # all alerts in one message
    keys = box.sent_keys()
    assert {"light:op:inf"} < set(keys)
    assert len(keys) == len(set(keys))

    assert once(finished_run.parent)
    assert len(box.messages) == 1


def test_alerts_from_before_the_start_are_marked_as_past(finished_run, box, once):
    assert once(finished_run, started_at=time.time() + 1)
    assert all(alert.past for alert in box.messages[0].alerts)
    assert box.messages[0].title.startswith("[past] ")


def test_the_history_of_a_large_folder_is_one_message(
    tmp_path, payloads, box, alerting_of, monkeypatch
):
    monkeypatch.setattr("esper.karn.alerts.alerting._NEW_RUNS_SECONDS", 0.0)
    start = time.time() + 1000
    for day, name in enumerate(("first", "second", "third")):
        with RunWriter(create_run(tmp_path, name, now=86_400.0 * day)) as writer:
            writer.emit(payloads.start())
            writer.emit(payloads.broken_update(1, "op", "nan"))
            writer.emit(payloads.finish(update=1))
    alerting = alerting_of(tmp_path, kinds=["light"], started_at=start)
    thread = threading.Thread(target=alerting.watch)  # reads one run at a time
    thread.start()
    assert box.arrived.wait(30)
    alerting.stop()
    thread.join()
    (message,) = box.messages
    assert [alert.run[16:] for alert in message.alerts] == ["third", "second", "first"]


def test_only_chosen_kinds_are_sent(finished_run, box, once):
    once(finished_run, kinds=["finished"])
    assert [key.split(":")[0] for key in box.sent_keys()] == ["finished"]


def test_an_acknowledged_light_is_not_sent(finished_run, box, once):
    acknowledge(finished_run, [("op", "inf")], "me", 1.0)
    once(finished_run, kinds=["light"])
    assert box.messages == []


def test_a_failing_sink_does_not_block_others_and_gets_its_message_later(
    finished_run, box, broken, alerting_of
):
    reports = []
    broken.refuses = True
    alerting = alerting_of(finished_run, box, broken, report=reports.append)
    thread = threading.Thread(target=alerting.watch)
    thread.start()
    assert box.arrived.wait(30)
    assert broken.has_refused.wait(30)
    alerting.stop()
    thread.join()

    assert "broken: 1 message not delivered; they are kept and sent at the next start" in reports
    broken.refuses = False
    _forget_owner(finished_run)
    fresh = alerting_of(finished_run, box, broken, is_single=True)
    assert fresh.once()
    assert len(box.messages) == 1
    (late,) = broken.messages
    assert late.id == box.messages[0].id
    assert late.is_past


def _forget_owner(run):
    """Rewrite the claims of this process so that they belong to a process that is gone."""
    path = run / "alerts.jsonl"
    path.write_text(path.read_text().replace(f'"pid":{os.getpid()},', '"pid":4000001,'))


def test_two_processes_with_the_same_sink_send_an_alert_once(finished_run, box, alerting_of):
    first, second = (alerting_of(finished_run, is_single=True) for _ in range(2))
    for alerting in (first, second):  # both found the alerts
        alerting.check_runs()
    assert first.once()
    assert second.once()
    assert len(box.sent_keys()) == len(set(box.sent_keys()))


def test_a_new_run_is_found_and_followed(tmp_path, payloads, box, alerting_of):
    alerting = alerting_of(tmp_path, kinds=["light"])
    clock = threading.Thread(target=alerting.watch)
    clock.start()
    with RunWriter(create_run(tmp_path, "new")) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.broken_update(1, "op", "nan"), durable=True)
        assert box.arrived.wait(30)
    alerting.stop()
    clock.join()
    assert box.sent_keys() == ["light:op:nan"]


def test_alerts_are_sent_if_the_record_cannot_be_written(finished_run, box, once):
    (finished_run / "alerts.jsonl").mkdir()
    reports = []
    assert once(finished_run, report=reports.append)
    assert "light:op:inf" in box.sent_keys()
    assert any("may be sent again after a restart" in line for line in reports)


def test_secrets_in_urls_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK", "https://example.com/very-secret")
    (tmp_path / "hook").write_text("https://example.com/very-secret\n")
    texts = ("env:HOOK", "file:hook", "https://example.com/very-secret")
    hooks = tuple(WebhookSettings(url=text) for text in texts)
    sinks, _ = sinks_of(AlertSettings(webhook=hooks), tmp_path)
    assert [sink.url for sink in sinks] == ["https://example.com/very-secret"] * 3
    assert not any("secret" in f"{sink.id} {sink.name}" for sink in sinks)

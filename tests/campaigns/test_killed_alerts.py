"""Campaign: alert processes are killed, mostly while they send a message.

    uv run pytest -m slow -n 0 -s tests/campaigns/test_killed_alerts.py

No light is lost, and a message that is sent twice has the same id. Takes two minutes.
"""

import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from received_posts import webhook
from runs_that_end import start_of, update_of

from esper.karn.store.run_store import RunWriter, create_run
from esper.leyline.telemetry import RunFinished

ROUNDS = 60
#: A process that sends alerts at once, without waiting for more.
ALERTS = """
import sys, time
from pathlib import Path
from esper.karn.alerts.alerting import Alerting, Sources
from esper.karn.alerts.polling import Rules
from esper.karn.alerts.settings import AlertSettings, WebhookSettings, sinks_of
sinks, _ = sinks_of(AlertSettings(webhook=(WebhookSettings(url=sys.argv[2]),)), Path())
rules = Rules(frozenset({"light"}), 900.0, time.time() - 3600)
Alerting(Sources(folders=(Path(sys.argv[1]),)), rules, sinks, (), print, window=0.0).watch()
"""
ONCE = ("-m", "esper", "alert", "--once", "--on", "light", "--webhook")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_light_is_lost_and_a_second_message_has_the_same_id(tmp_path):
    chance = random.Random(0)
    twice = 0
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        with webhook() as hook:
            hook.code = chance.choice([200, 200, 503])
            run = create_run(folder, "lit")
            with RunWriter(run) as writer:
                writer.emit(start_of(run.name))
                writer.emit(update_of(1, "op", "nan"), durable=True)
                for _ in range(chance.randint(1, 3)):
                    _start_and_kill(folder, hook, chance)
                end = RunFinished(status="finished", update=1, episodes_done=0)
                writer.emit(end, durable=True)
            hook.code = 200
            for _ in range(2):
                subprocess.run([sys.executable, *ONCE, hook.url, str(folder)], check=True)
            messages = hook.messages()
        counts = Counter(alert["key"] for one in messages for alert in one["alerts"])
        assert counts["light:op:nan"] >= 1
        assert len({one["id"] for one in messages}) == 1
        twice += counts["light:op:nan"] > 1
    assert twice <= ROUNDS // 6  # the window is short, and most kills are aimed at it
    print(f"{ROUNDS} rounds, {twice} sent twice")


def _start_and_kill(folder, hook, chance):
    before = len(hook.bodies) + len(hook.refused)
    process = subprocess.Popen(
        [sys.executable, "-c", ALERTS, str(folder), hook.url], stdout=subprocess.DEVNULL
    )
    if chance.random() < 0.7:
        with hook.arrived:
            hook.arrived.wait_for(lambda: len(hook.bodies) + len(hook.refused) > before, 3)
        time.sleep(chance.random() * 0.003)
    else:
        time.sleep(chance.uniform(0.1, 0.8))
    process.kill()
    process.wait()

"""Prometheus metrics: values, limits, alert rules and dashboard."""

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from esper.karn.alerts import metrics as metrics_module
from esper.karn.alerts.facts import RunView
from esper.karn.alerts.metrics import METRICS, Address, Metrics, address_of, samples_of
from esper.karn.alerts.secrets import AlertSettingsError
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.run_store import RunWriter, create_run

MONITORING = Path(__file__).parents[3] / "docs" / "monitoring"


def view_of(run, now=None):
    now = time.time() if now is None else now
    frame = RunFollower(run, brief=True).catch_up()
    return RunView(run, frame, now, frozenset(), 30.0, 900.0, {})


def by_name(samples):
    found = {}
    for name, labels, value in samples:
        found.setdefault(name, {})[labels] = value
    return found


@pytest.fixture
def live_run(run, payloads):
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
        writer.emit(payloads.update(1))
        broken = payloads.broken_update(2, "op", "+inf", approximate_kl=math.nan)
        writer.emit(broken, durable=True)
        yield run


def test_a_live_run_has_lights_status_and_figures(live_run):
    found = by_name(samples_of([view_of(live_run)], {"webhook x": 2}, time.time()))
    name = live_run.name

    assert found["esper_latch"][name, "op", "inf"] == 1
    assert found["esper_latch"][name, "op", "nan"] == 0
    assert found["esper_update"] == {(name,): 2}
    assert found["esper_run_status"] == {(name, "LIVE"): 1}
    assert found["esper_seconds_since_update"][name,] == pytest.approx(30.0, abs=5)
    assert found["esper_heartbeat_age_seconds"][name,] < 60
    assert math.isnan(found["esper_figure"][name, "approx_kl"])
    assert found["esper_figure"][name, "grad_norm"] == 1.5
    assert found["esper_messages_waiting"] == {("webhook x",): 2}
    assert found["esper_runs_left_out"] == {(): 0}
    assert set(found) <= set(METRICS)


def test_a_light_that_may_have_been_lost_is_absent_not_dark(finished_run):
    with (finished_run / "latches.jsonl").open("a") as file:
        file.write("damaged\n")
    found = by_name(samples_of([view_of(finished_run)], {}, time.time()))
    assert found["esper_latch"] == {(finished_run.name, "op", "inf"): 1}


def test_the_number_of_series_is_bounded(tmp_path, payloads, monkeypatch):
    monkeypatch.setattr(metrics_module, "RUNS_SHOWN", 2)
    monkeypatch.setattr(metrics_module, "GROUPS_SHOWN", 3)
    heads = {f"head{number}": ["a", "b"] for number in range(50)}
    views = []
    for number in range(4):
        run = create_run(tmp_path, str(number))
        with RunWriter(run) as writer:
            writer.emit(payloads.start(heads=heads))
            writer.emit(payloads.broken_update(1, "head49", "nan"))
            writer.emit(payloads.finish(update=1))
        views.append(view_of(run))
    found = by_name(samples_of(views, {}, time.time()))
    assert found["esper_runs_left_out"] == {(): 2}
    assert len(found["esper_latch"]) == 2 * 3 * 2  # runs, groups, kinds
    assert found["esper_latch"][views[0].directory.name, "head49", "nan"] == 1  # lit ones first
    later = by_name(samples_of(views, {}, time.time() + 90_000))
    assert later == {"esper_runs_left_out": {(): 4}}


def test_metrics_are_served_and_written_in_the_prometheus_format(live_run, tmp_path):
    metrics = Metrics()
    metrics.publish(samples_of([view_of(live_run)], {}, time.time()))
    port = metrics.serve(Address("127.0.0.1", 0))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        served = answer.read().decode()
    metrics.write(tmp_path / "esper.prom")

    assert served == (tmp_path / "esper.prom").read_text()
    families = {family.name: family for family in text_string_to_metric_families(served)}
    assert families["esper_nonfinite_updates"].type == "counter"
    assert {"run", "group", "kind"} == set(families["esper_latch"].samples[0].labels)
    with pytest.raises(AlertSettingsError, match="Address already in use"):
        Metrics().serve(Address("127.0.0.1", port))


def test_the_default_host_of_an_address_is_the_loopback_interface():
    assert address_of("9108") == Address("127.0.0.1", 9108)
    assert address_of("0.0.0.0:9108") == Address("0.0.0.0", 9108)
    assert address_of("[::1]:9108") == Address("::1", 9108)
    for wrong in ("", "host", "host:", "70000"):
        with pytest.raises(AlertSettingsError, match="must be PORT or HOST:PORT"):
            address_of(wrong)


def test_rules_and_dashboard_use_metrics_that_exist():
    rules = (MONITORING / "esper-rules.yml").read_text()
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set(re.findall(r"\besper_\w+", " ".join([rules, *shown])))
    assert used <= set(METRICS)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules_and_their_tests():
    for command in (
        ("check", "rules", "esper-rules.yml"),
        ("test", "rules", "esper-rules-test.yml"),
    ):
        done = subprocess.run(
            ["promtool", *command], cwd=MONITORING, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_a_rule_fires_in_prometheus_for_a_lit_run(live_run, tmp_path):
    metrics = Metrics()
    metrics.publish(samples_of([view_of(live_run)], {}, time.time()))
    target = f"127.0.0.1:{metrics.serve(Address('127.0.0.1', 0))}"
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{MONITORING / 'esper-rules.yml'}']\n"
        "scrape_configs: [{job_name: esper, static_configs: [{targets: ['" + target + "']}]}]\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        light = _firing(f"http://{address}/api/v1/query", "EsperLight")
    finally:
        server.terminate()
        server.wait()
    assert (light["run"], light["group"], light["kind"]) == (live_run.name, "op", "inf")


def _firing(url, name, seconds=60.0):
    """Return the labels of an alert once it fires."""
    asked = urllib.parse.urlencode({"query": f'ALERTS{{alertname="{name}",alertstate="firing"}}'})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}?{asked}", timeout=5) as answer:
                if result := json.load(answer)["data"]["result"]:
                    return result[0]["metric"]
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"{name} did not fire within {seconds:g} s")

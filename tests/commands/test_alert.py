"""`esper alert`, and the alert process that a run starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from received_posts import webhook

SUPPORT = Path(__file__).parents[1] / "support"
#: Records a light and is killed by SIGKILL.
KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(SUPPORT)!r})
from pathlib import Path
from runs_that_end import start_of, update_of
from esper.karn.store.run_store import RunWriter
run = Path(os.environ["ESPER_WATCHED_RUN"])
with RunWriter(run) as writer:
    writer.emit(start_of(run.name), durable=True)
    writer.emit(update_of(1, "op", "nan"), durable=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def hook():
    with webhook() as received:
        yield received


@pytest.mark.parametrize("given", ["option", "variable"])
def test_the_alert_process_of_a_killed_run_sends_its_alerts(tmp_path, hook, given):
    (tmp_path / "alerts.toml").write_text(f'[[webhook]]\nurl = "{hook.url}"\n')
    (tmp_path / "train.py").write_text(KILLED)
    option = ["--alert-config", "alerts.toml"] if given == "option" else []
    variable = {"ESPER_ALERT_CONFIG": "alerts.toml"} if given == "variable" else {}
    command = [sys.executable, "-m", "esper", "run", *option, "--", sys.executable, "train.py"]
    ended = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variable}, check=False)
    hook.wait_for(1)

    assert ended.returncode == 128 + 9
    (message,) = hook.messages()
    assert [alert["kind"] for alert in message["alerts"]] == ["light", "died"]


def test_an_invalid_alert_config_is_rejected_before_a_run_is_created(run, tmp_path):
    (tmp_path / "alerts.toml").write_text("[[log]]\n")
    for command in (("ppo",), ("run", "--", sys.executable)):
        code, _, errors = run(command[0], "--alert-config", "alerts.toml", *command[1:])
        assert (code, errors.count("\n")) == (2, 1)
        assert "alerts.toml: log[0]: object missing required field path" in errors
    (tmp_path / "alerts.toml").write_text("on = ['light']\n")
    assert "has no sink" in run("ppo", "--alert-config", "alerts.toml")[2]
    assert not (tmp_path / "runs").exists()


def test_the_test_option_prints_which_sinks_accepted_the_message(run, tmp_path, hook):
    sinks = ("--webhook", f"{hook.url}/secret", "--heartbeat", hook.url, "--exec", "false")
    code, out, errors = run("alert", "--test", *sinks)
    assert code == 1
    assert out.splitlines() == [
        "did not arrive: exec false: exit code 1",
        "arrived: webhook 127.0.0.1 (HTTP 200)",
        "arrived: heartbeat 127.0.0.1 (failure: HTTP 200, recovery: HTTP 200)",
    ]
    assert [path for path, _ in hook.bodies] == ["/secret", "/fail", "/"]
    assert "secret" not in out + errors
    assert run("alert", "--test", "--log", "sent.jsonl")[0] == 0


def test_once_sends_new_alerts(run, written, hook):
    sinks = ("--webhook", hook.url, "--on", "all")
    assert run("alert", "--once", *sinks)[0] == 0
    assert run("alert", "--once", *sinks)[0] == 0
    (message,) = hook.messages()
    assert [alert["kind"] for alert in message["alerts"]] == ["finished"]
    assert message["alerts"][0]["run"] == written.name


def test_a_folder_a_run_and_a_settings_file_are_watched(run, written, tmp_path, hook):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "alerts.toml").write_text(
        f'watch = ["../runs"]\non = ["all"]\n[[webhook]]\nurl = "{hook.url}"\n[[log]]\npath = "l"\n'
    )
    assert run("alert", "--once", "--config", "sub/alerts.toml")[0] == 0
    assert len(hook.messages()) == 1
    assert (tmp_path / "sub" / "l").exists()
    (written / "alerts.jsonl").unlink()
    for what in ("fine", written.name[:15], str(written), "runs"):
        run("alert", what, "--once", "--on", "finished", "--log", "sent.jsonl")
        assert written.name in (tmp_path / "sent.jsonl").read_text()
        (tmp_path / "sent.jsonl").unlink()
        (written / "alerts.jsonl").unlink()


def test_metrics_are_written_for_node_exporter(run, written, tmp_path):
    assert run("alert", "--once", "--textfile", "esper.prom")[0] == 0
    text = (tmp_path / "esper.prom").read_text()
    assert f'esper_run_status{{run="{written.name}",status="FINISHED"}} 1.0' in text
    assert not (written / "alerts.jsonl").exists()  # no alert was sent

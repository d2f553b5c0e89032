"""Sinks: what they send, when a message counts as accepted, and errors without secrets."""

import json
import sys
import threading
import time

import pytest
from received_posts import webhook

from esper.karn.alerts.alert_types import Alert
from esper.karn.alerts.delivery import Delivery
from esper.karn.alerts.messages import Message, drill_message, message_of
from esper.karn.alerts.secrets import AlertSettingsError
from esper.karn.alerts.settings import (
    AlertSettings,
    CommandSettings,
    HeartbeatSettings,
    LogSettings,
    NotifySettings,
    WebhookSettings,
    read_settings,
    seconds_of,
    sinks_of,
)
from esper.karn.alerts.sinks.heartbeat import HeartbeatThread
from esper.karn.alerts.sinks.sink import SinkError
from esper.karn.alerts.sinks.webhook import shape_of


def alert(key="light:op:nan", run="ant", **more):
    words = {"kind": "light", "path": f"/runs/{run}", "sentence": "op went NaN in logits, update 2"}
    return Alert(key=key, run=run, **(words | more))


MESSAGE = message_of("m1", [alert(update=2, head="op"), alert("died:1@2", kind="died")])


def sink_of(tmp_path, **settings):
    (sink,), _ = sinks_of(AlertSettings(**settings), tmp_path, sys.stdout)
    return sink


@pytest.fixture
def hook():
    with webhook() as received:
        yield received


def test_a_webhook_gets_the_whole_message(tmp_path, hook):
    sink = sink_of(tmp_path, webhook=(WebhookSettings(url=f"{hook.url}/secret"),))
    assert sink.send(MESSAGE) == "HTTP 200"
    ((path, body),) = hook.bodies
    assert path == "/secret"
    sent = json.loads(body)
    assert (sent["version"], sent["id"], sent["drill"], sent["past"]) == (1, "m1", False, False)
    assert sent["title"] == "ant: op went NaN in logits, update 2 (and 1 more)"
    assert [one["key"] for one in sent["alerts"]] == ["light:op:nan", "died:1@2"]


def test_slack_and_discord_get_their_own_formats(tmp_path, hook):
    assert shape_of("https://hooks.slack.com/services/T/B/x") == "slack"
    assert shape_of("https://discord.com/api/webhooks/1/x") == "discord"
    assert shape_of("https://example.com/hooks.slack.com") == "json"
    evil = message_of("m", [alert(sentence="<!channel> @everyone & co", run="r" * 3000)])
    for shape in ("slack", "discord"):
        sink_of(tmp_path, webhook=(WebhookSettings(url=f"{shape}+{hook.url}"),)).send(evil)
        sink_of(tmp_path, webhook=(WebhookSettings(url=hook.url, shape=shape),)).send(MESSAGE)
    slack, _, discord, _ = hook.messages()
    assert set(slack) == {"text"}
    assert "<!channel>" not in slack["text"]
    assert len(discord["content"]) == 2000
    assert discord["allowed_mentions"] == {"parse": []}


def test_webhook_errors_contain_no_secret(tmp_path, hook):
    sink = sink_of(tmp_path, webhook=(WebhookSettings(url=f"{hook.url}/secret"),))
    hook.code, hook.headers = 302, {"Location": f"{hook.url}/secret2"}
    with pytest.raises(SinkError, match="HTTP 302 the URL redirects") as redirected:
        sink.send(MESSAGE)
    hook.code, hook.headers = 429, {"Retry-After": "7"}
    with pytest.raises(SinkError, match="HTTP 429 Too Many Requests") as limited:
        sink.send(MESSAGE)
    assert limited.value.retry_after == 7.0
    gone = sink_of(tmp_path, webhook=(WebhookSettings(url="http://127.0.0.1:9/secret"),))
    with pytest.raises(SinkError, match="no response: Connection refused") as refused:
        gone.send(MESSAGE)
    assert not any("secret" in str(one.value) for one in (redirected, limited, refused))
    assert "secret" not in gone.name + gone.id


def test_a_command_gets_json_and_variables_but_no_shell(tmp_path, monkeypatch):
    code = (
        "import json, os, sys; m = json.load(sys.stdin); "
        "print(m['id'], os.environ['ESPER_ALERT_RUNS'], os.environ['ESPER_ALERT_KINDS'], "
        "sys.argv[1], file=open('got', 'w'))"
    )
    monkeypatch.chdir(tmp_path)
    command = f'{sys.executable} -c "{code}" "$HOME; x"'
    sink = sink_of(tmp_path, exec=(CommandSettings(command=command),))
    assert sink.send(MESSAGE) == "exit code 0"
    assert (tmp_path / "got").read_text() == "m1 ant light,died $HOME; x\n"


def test_a_command_that_fails_or_takes_too_long_did_not_accept(tmp_path):
    fails = sink_of(tmp_path, exec=(CommandSettings(command="sh -c 'echo no >&2; exit 3'"),))
    with pytest.raises(SinkError, match="exit code 3: no"):
        fails.send(MESSAGE)
    slow = CommandSettings(command="sh -c 'sleep 60 & wait'", time_limit="0.2s")
    begun = time.monotonic()
    with pytest.raises(SinkError, match=r"took longer than 0\.2 s and was killed"):
        sink_of(tmp_path, exec=(slow,)).send(MESSAGE)
    assert time.monotonic() - begun < 30  # its child was killed, too


def test_a_log_has_a_line_for_each_message(tmp_path, capsys):
    sink = sink_of(tmp_path, log=(LogSettings(path="sent.jsonl"),))
    for _ in range(2):
        sink.send(MESSAGE)
    lines = (tmp_path / "sent.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["m1", "m1"]
    sink_of(tmp_path, log=(LogSettings(path="-"),)).send(MESSAGE)
    assert json.loads(capsys.readouterr().out)["id"] == "m1"


def test_apprise_sends(tmp_path, hook):
    url = f"json://{hook.url.removeprefix('http://')}/secret"
    sink = sink_of(tmp_path, notify=(NotifySettings(url=url),))
    assert sink.send(MESSAGE) == "sent"
    assert hook.messages()[0]["title"] == MESSAGE.title
    hook.code = 500
    with pytest.raises(SinkError) as failed:
        sink.send(MESSAGE)
    assert "secret" not in str(failed.value) + sink.name


def test_a_heartbeat_fails_and_recovers(tmp_path, hook):
    settings = AlertSettings(heartbeat=(HeartbeatSettings(url=f"{hook.url}/uuid?rid=1"),))
    _, (sink,) = sinks_of(settings, tmp_path)
    reports = []
    heartbeat = HeartbeatThread(sink, reports.append)
    heartbeat.start()
    for number, failures in enumerate(([], ["ant: no update for 20 min"], []), start=1):
        heartbeat.set_failures(failures)
        hook.wait_for(number)
    heartbeat.stop()
    heartbeat.join()
    assert hook.bodies == [
        ("/uuid?rid=1", "all runs are fine"),
        ("/uuid/fail?rid=1", "ant: no update for 20 min"),
        ("/uuid?rid=1", "all runs are fine"),
    ]
    assert "recovery: HTTP 200" in sink.send(drill_message())


def test_a_failing_sink_is_retried_in_order_with_a_report(box):
    reports, delivered = [], []
    retried = threading.Event()

    def report(line):
        reports.append(line)
        if len(reports) == 2:
            box.refuses = False
            retried.set()

    box.refuses = True
    delivery = Delivery(box, lambda one, _: delivered.append(one.id), report, first_wait=0.01)
    messages = [Message(id=str(number), alerts=(alert(),)) for number in range(3)]
    for one in messages:
        delivery.put(one)
    delivery.start()
    assert retried.wait(20)
    assert delivery.wait_until_sent(time.monotonic() + 20, despite_failure=True)
    delivery.stop()
    assert delivered == ["0", "1", "2"]
    assert reports[0] == "box: refused; trying again in 0 s"


def test_a_message_of_many_alerts_is_cut_in_text_and_complete_in_json():
    many = message_of("m", [alert(f"k{n}", run=f"r{n % 3}") for n in range(40)])
    assert many.title.startswith("40 alerts in 3 runs (40 light); r0: ")
    assert many.text.splitlines()[-1] == "and 20 more"
    assert len(many.as_json()["alerts"]) == 40


def test_control_characters_from_stores_are_removed():
    message = message_of("m", [alert(sentence="a\x1b[2J\u202eb\nc", time=1e300)])
    assert not {"\x1b", "\u202e"} & set(message.title + message.text)
    assert "\n" not in message.title
    assert len(message_of("m", [alert(sentence="x" * 999)]).title) == 160


def test_a_message_is_marked_as_drill_only_if_drills_caused_all_of_it():
    planted = alert(planted=True)
    follows = alert("escalation:skip", kind="escalation")
    assert message_of("m", [planted, follows]).title.startswith("[drill] ")
    assert "drill" not in message_of("m", [planted, alert("died:1@1", kind="died")]).title


def test_a_settings_file_is_read_and_checked(tmp_path):
    path = tmp_path / "alerts.toml"
    path.write_text(
        'watch = ["runs"]\non = ["light", "halt"]\nstalled_after = "2h"\n'
        '[[webhook]]\nurl = "env:HOOK"\nshape = "slack"\n[[exec]]\ncommand = "true"\n'
    )
    settings = read_settings(path)
    assert (settings.watch, settings.on) == (("runs",), ("light", "halt"))
    assert settings.webhook == (WebhookSettings(url="env:HOOK", shape="slack"),)
    for text, words in (
        ("[[webhok]]", "unknown key 'webhok'; did you mean webhook?"),
        ('[[webhook]]\nul = "x"', r"unknown key 'ul' in \[\[webhook\]\]; did you mean url?"),
        ("[[webhook]]\nurl = 3", r"webhook\[0\]\.url: expected str, got int"),
        ("on = [", "is not a TOML file"),
    ):
        path.write_text(text)
        with pytest.raises(AlertSettingsError, match=words):
            read_settings(path)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), (90, 90), ("1.5m", 90), ("2h", 7200), ("1 d", 86400)]
)
def test_times_have_units(text, seconds):
    assert seconds_of(text, "x") == seconds

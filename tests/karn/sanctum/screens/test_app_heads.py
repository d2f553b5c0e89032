"""The Heads screen: its list, what follows the choice in it, and the replay in place."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from esper.karn.sanctum.heads.evidence_panel import EvidencePanel
from esper.karn.sanctum.heads.head_history_panel import HeadHistoryPanel
from esper.karn.sanctum.heads.incident_panel import IncidentPanel
from esper.karn.sanctum.heads.screen import HeadsScreen
from esper.karn.sanctum.schema import Evidence

SIZES = [(80, 24), (120, 40), (200, 60)]
RUN = Path("/runs/amber")


@pytest.fixture
def opened(views, sanctum, seen):
    """Return a function that opens the Heads screen over a drilled run and runs a test on it."""

    async def run(test, size=(120, 40), snapshot=None, command=None, view=None):
        app = sanctum(view or views.view(snapshot or views.drilled(), directory=RUN))
        async with app.run_test(size=size) as pilot:
            await seen(pilot)
            await pilot.press("2")
            await pilot.pause()
            await seen(pilot)
            assert isinstance(app.screen, HeadsScreen)
            if command is not None:
                app.screen.query_one(IncidentPanel)._command = command
            await test(pilot, app)
        return app

    return run


async def _until(pilot, is_so):
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        await pilot.pause(0.02)


async def test_a_head_s_name_commands_neither_terminal_nor_clipboard(views, opened, screen_text):
    """A title, a message, and what is copied have no control characters, and no markup."""
    name = "op\x9b31m\x1b]0;x\u202e[b]"
    tamiyo = views.drilled().tamiyo
    row = replace(tamiyo.evidence[0], head=name, is_active=True)
    tamiyo = replace(
        tamiyo,
        evidence=(row,),
        head_inf_latch={name: True},
        head_nan_latch={name: False},
    )
    view = views.view(replace(views.drilled(), tamiyo=tamiyo), directory=RUN)

    async def test(pilot, app):
        await pilot.press("home")
        app.notify(f"acknowledged: {name}", markup=False)
        await pilot.press("y")
        await pilot.pause()
        drawn = "\n".join(screen_text(app))
        shown = "op�31m�]0;x�[b]"
        assert f"History of {shown}" in drawn
        expected = "".join(each.message for each in app._notifications)
        assert f"acknowledged: {shown}" in expected
        assert shown in app.clipboard
        assert not set(name) & set(drawn + expected + app.clipboard) & set("\x9b\x1b\u202e")

    await opened(test, view=view)


@pytest.mark.parametrize("size", SIZES)
async def test_the_list_and_the_history_of_its_first_row_are_seen(opened, screen_text, size):
    async def test(pilot, app):
        text = "\n".join(screen_text(app))
        for expected in ("Inf in logits", "NaN in log_prob", "History of Op", "Ratio max +Inf"):
            assert expected in text
        assert isinstance(app.focused, EvidencePanel)

    await opened(test, size)


@pytest.mark.parametrize("size", SIZES)
async def test_the_place_of_the_chosen_row_is_described_in_words(views, opened, screen_text, size):
    snapshot = views.drilled()
    hosts = Evidence(
        *("hosts", "loss", "nan", 2, 0, 0, 36, 0, 0, 2, 0),
        is_active=False,
        first_phase="hosts",
        first_host=2,
        first_step=5,
        last_phase="hosts",
        steps=4,
        reproduced=False,
    )
    tamiyo = snapshot.tamiyo
    evidence = (*tamiyo.evidence, hosts)
    lit = tamiyo.group_nan_latch | {"hosts": True}
    tamiyo = replace(tamiyo, evidence=evidence, group_nan_latch=lit)

    async def test(pilot, app):
        words = "NaN in loss: while training host 3, step 5, in 4 steps, not reproduced"
        assert words not in "\n".join(screen_text(app))
        await pilot.press("down", "down")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        assert words in text
        assert "History of the hosts" in text
        assert app.screen.chosen_light() == ("hosts", "nan")

    await opened(test, size, snapshot=replace(snapshot, tamiyo=tamiyo))


async def test_the_history_follows_the_choice(opened):
    async def test(pilot, app):
        history = app.screen.query_one(HeadHistoryPanel)
        await pilot.press("end")
        await pilot.pause()
        assert history.border_title == "History of αCurve"
        await pilot.press("home")
        await pilot.pause()
        assert history.border_title == "History of Op"

    await opened(test)


@pytest.mark.parametrize("size", SIZES)
async def test_enter_opens_the_incident_of_the_row_and_escape_closes_it(opened, screen_text, size):
    async def test(pilot, app):
        assert "capsule" not in "\n".join(screen_text(app))
        await pilot.press("enter")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        assert "incident 1  update 2" in text
        assert "incidents/0001/capsule.pt" in text
        assert ("History of Op" in text) == (size[0] >= 110)
        await pilot.press("end")
        await pilot.pause()
        assert "has no incident" in "\n".join(screen_text(app))
        await pilot.press("escape")
        await pilot.pause()
        assert "─Incident" not in "\n".join(screen_text(app))

    await opened(test, size)


async def test_a_row_with_several_incidents_turns_through_them(opened, screen_text):
    async def test(pilot, app):
        await pilot.press("enter")
        for key, expected in [
            ("right", "incident 2  update 36"),
            ("right", "incident 1  update 2"),
            ("left", "incident 2  update 36"),
        ]:
            await pilot.press(key)
            await pilot.pause()
            assert expected in "\n".join(screen_text(app))
        assert "Incident · 2 of 2, ← →" in "\n".join(screen_text(app))
        await pilot.press("down")
        await pilot.pause()
        text = "\n".join(screen_text(app))
        assert "incident 1  update 2" in text
        assert "2 of 2" not in text

    await opened(test)


async def test_a_acknowledges_the_light_of_the_row(opened, tmp_path, views):
    view = views.view(views.drilled(), directory=tmp_path)

    async def test(pilot, app):
        assert app.screen.chosen_light() == ("op", "inf")
        await pilot.press("down")
        assert app.screen.chosen_light() == ("op", "nan")
        await pilot.press("end")
        assert app.screen.chosen_light() is None

    await opened(test, view=view)


async def test_r_replays_the_incident_and_shows_what_was_found_in_place(
    opened, screen_text, replay_report
):
    asked = []

    def command(directory, number):
        asked.append((directory, number))
        return [sys.executable, "-c", f"print({json.dumps(replay_report)!r})"]

    async def test(pilot, app):
        await pilot.press("r")
        await _until(pilot, lambda: "REPRODUCED" in "\n".join(screen_text(app)))
        text = "\n".join(screen_text(app))
        for expected in (
            "aten.mm.default",
            "policy.heads",
            "policy.py:88",
            "too large",
            "it spread",
        ):
            assert expected in text
        # The result is kept while other rows are selected.
        await pilot.press("end")
        await pilot.pause()
        assert "REPRODUCED" not in "\n".join(screen_text(app))
        await pilot.press("home")
        await pilot.pause()
        assert "REPRODUCED" in "\n".join(screen_text(app))

    await opened(test, (120, 40), command=command)
    assert asked == [(RUN, 1)]


async def test_a_replay_is_scrolled_to_its_result_and_nothing_of_it_overruns(
    opened, screen_text, replay_report
):
    def command(directory, number):
        return [sys.executable, "-c", f"print({json.dumps(replay_report)!r})"]

    async def test(pilot, app):
        await pilot.press("r")
        panel = app.screen.query_one(IncidentPanel)
        await _until(pilot, lambda: "REPRODUCED" in panel.text)
        await pilot.pause()
        shown = "\n".join(screen_text(app))
        for expected in ("REPRODUCED", "began in", "aten.mm.default"):
            assert expected in shown
        lines = panel.text.splitlines()
        (place,) = {line.index("aten.mm") for line in lines if line.startswith("began in")}
        (chain,) = {line.index("aten.mm") for line in lines if line.startswith("it spread")}
        assert chain == place, "what is expected stands in one column"

    await opened(test, (80, 24), command=command)


async def test_a_replay_that_fails_says_why_in_one_sentence(opened, screen_text):
    def command(directory, number):
        return [sys.executable, "-c", "import sys; sys.exit('esper: the capsule is damaged')"]

    async def test(pilot, app):
        await pilot.press("r")
        await _until(pilot, lambda: "damaged" in "\n".join(screen_text(app)))
        assert "exit code 1: the capsule is" in "\n".join(screen_text(app))

    await opened(test, command=command)


@pytest.mark.parametrize("leave", [["3"], ["escape"], ["q"]])
async def test_leaving_the_screen_ends_the_process(opened, screen_text, tmp_path, leave):
    pid_file = tmp_path / "pid"

    def command(directory, number):
        code = f"import os, time; open({str(pid_file)!r}, 'w').write(f'{{os.getpid()}} '); "
        return [sys.executable, "-c", code + "time.sleep(600)"]

    async def test(pilot, app):
        await pilot.press("r")
        await _until(pilot, lambda: pid_file.exists() and pid_file.read_text().endswith(" "))
        assert "replaying" in "\n".join(screen_text(app))
        await pilot.press(*leave)

    await opened(test, command=command)
    deadline = time.monotonic() + 30
    while _is_alive(int(pid_file.read_text())):
        assert time.monotonic() < deadline, "the replay outlived its screen"
        time.sleep(0.02)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("keys", [["end", "r"], ["down", "r"]])
async def test_r_does_nothing_where_there_is_nothing_to_replay(opened, views, screen_text, keys):
    snapshot = views.drilled()
    kept_none = tuple(replace(one, path="", reason="no room") for one in snapshot.incidents)

    async def test(pilot, app):
        await pilot.press(*keys)
        await pilot.pause()
        assert "replaying" not in "\n".join(screen_text(app))

    await opened(test, snapshot=replace(snapshot, incidents=kept_none))


async def test_before_anything_was_seen_every_head_has_its_row(opened, views, screen_text):
    async def test(pilot, app):
        text = "\n".join(screen_text(app))
        assert text.count("neither Inf nor NaN") == 8
        assert "History of Slot" in text

    await opened(test, snapshot=views.healthy())


async def test_the_screen_over_no_run_says_nothing_false(opened, views, screen_text):
    async def test(pilot, app):
        text = "\n".join(screen_text(app))
        assert "neither Inf nor NaN" in text
        assert "nothing yet" in text

    await opened(test, view=views.waiting())

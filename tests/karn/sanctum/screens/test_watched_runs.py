"""Screens of a run that is watched from outside: they show what it has, and nothing else."""

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from esper.karn.sanctum.drawing.ascii import text_in_ascii
from esper.karn.sanctum.frame.key_line import hints_of
from esper.karn.sanctum.frame.run_header import render_header
from esper.karn.sanctum.frame.status_line import render_line, render_small
from esper.karn.sanctum.heads.evidence_panel import EvidencePanel
from esper.karn.sanctum.heads.incident_panel import IncidentPanel
from esper.karn.sanctum.overview.lights_panel import render_lights
from esper.karn.sanctum.schema import LogEntry, SanctumSnapshot
from esper.karn.store.liveness import StatusKind
from esper.leyline.health import Level
from esper.leyline.telemetry import RunFinished

RUN = Path("/runs/cart")
SIZES = [(80, 24), (120, 40), (200, 60)]


def _name(size):
    return f"{size[0]}x{size[1]}"


def stalled(snapshot, updates=5, since=32):
    """Return a snapshot of a run in which no weight has moved for some updates."""
    training = snapshot.training
    figures = msgspec.structs.replace(training.figures, still_updates=updates)
    return replace(
        snapshot,
        training=replace(training, figures=figures, stalled_latch=True, stalled_since=since),
    )


def with_details(snapshot):
    """Return a snapshot with a line in its log that has two details."""
    entries = [
        LogEntry(event_id, 1000.0, "info", text, kind="ppo_update", lead=lead)
        for event_id, text, lead in [(7, "bad update", 0), (8, "detail 1", 7), (9, "detail 2", 7)]
    ]
    return replace(snapshot, log=(*snapshot.log, *entries))


def box_of(dimensions):
    return {f"action[{number}]": "gaussian" for number in range(dimensions)}


async def pressed(pilot, seen, *keys):
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
        await seen(pilot)


@pytest.mark.parametrize("size", SIZES, ids=_name)
@pytest.mark.parametrize("is_broken", [True, False], ids=["broken", "healthy"])
def test_overview(views, sanctum, seen, snap_compare, is_broken, size):
    app = sanctum(views.view(views.watched(is_broken=is_broken), directory=RUN))
    assert snap_compare(app, terminal_size=size, run_before=seen)


@pytest.mark.parametrize("size", SIZES[:2], ids=_name)
def test_overview_with_many_groups(views, sanctum, seen, snap_compare, size):
    snapshot = stalled(views.watched(heads=box_of(30) | {"steer": "categorical"}, groups=600))
    app = sanctum(views.view(snapshot, directory=RUN))
    assert snap_compare(app, terminal_size=size, run_before=seen)


@pytest.mark.parametrize("size", SIZES[:2], ids=_name)
@pytest.mark.parametrize("keys", [("2",), ("2", "enter")], ids=["history", "incident"])
def test_heads(views, sanctum, seen, snap_compare, keys, size):
    async def open_it(pilot):
        await seen(pilot)
        await pressed(pilot, seen, *keys)

    app = sanctum(views.view(views.watched(groups=40), directory=RUN))
    assert snap_compare(app, terminal_size=size, run_before=open_it)


async def test_screens_with_hosts_are_not_offered(views, sanctum, seen):
    app = sanctum(views.view(views.watched(), directory=RUN))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        shown = {hint.meaning for hint in hints_of(app.screen)}
        assert {"Overview", "Heads", "Log", "Runs"} <= shown
        assert not {"Hosts", "Decisions"} & shown
        titles = {command.title for command in app.get_system_commands(app.screen)}
        assert "Heads" in titles
        assert not {"Hosts", "Decisions"} & titles
        await pressed(pilot, seen, "3", "4")
        assert app.current_mode == "Overview"


async def test_a_run_that_turns_out_to_be_watched_leaves_the_screen_hosts(views, sanctum, seen):
    app = sanctum(views.view())
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, "3")
        assert app.current_mode == "Hosts"
        app.shown.append(views.view(views.watched(), directory=RUN))
        await seen(pilot)
        await pilot.pause(0.5)
        assert app.current_mode == "Overview"


async def test_the_overview_says_what_is_watched_and_nothing_of_hosts(
    views, sanctum, seen, screen_text
):
    app = sanctum(views.view(views.watched(is_broken=False), directory=RUN))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        text = "\n".join(screen_text(app))
    assert "library stable-baselines3 2.9.2" in text
    assert "task CartPole-v1" in text
    assert "no Inf and no NaN in 36 updates" in text
    assert "ep_rew_mean" in text
    for word in ("osts", "episodes", "Score", "Tamiyo", "networks"):
        assert word not in text


async def test_the_incident_needs_no_replay_and_offers_none(views, sanctum, seen, screen_text):
    app = sanctum(views.view(views.watched(), directory=RUN))
    async with app.run_test(size=(200, 60)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, "2", "enter")
        text = app.screen.query_one(IncidentPanel).text
        shown = {hint.meaning for hint in hints_of(app.screen)}
    for part in (
        "div, forward pass",
        "it came in with rewards[6], which is NaN",
        "policy.critic",
        "cartlib/ppo.py:219, train",
        "advantages = (advantages - mean) / std",
        "/home/ana/train.py:12: model.learn(10_000)",
    ):
        assert part in text
    assert "replay" not in text.lower()
    assert "capsule" not in text
    assert "Replay" not in shown


async def test_an_incident_without_an_origin_says_why(views, sanctum, seen):
    snapshot = views.watched()
    why = "the loop reads from a pipe"
    incident = replace(snapshot.incidents[0], origin=None, no_origin=why)
    app = sanctum(views.view(replace(snapshot, incidents=(incident,)), directory=RUN))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, "2", "enter")
        assert f"not known: {why}" in app.screen.query_one(IncidentPanel).text


async def test_an_incident_with_a_capsule_can_be_replayed(views, sanctum, seen):
    snapshot = views.watched()
    incident = replace(snapshot.incidents[0], path="incidents/0001")
    app = sanctum(views.view(replace(snapshot, incidents=(incident,)), directory=RUN))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, "2", "enter")
        text = app.screen.query_one(IncidentPanel).text
        assert "used by    div" in text
        assert "r repeats the update" in text
        assert "Replay" in {hint.meaning for hint in hints_of(app.screen)}


async def test_groups_are_searched_and_what_is_lit_comes_first(views, sanctum, seen, screen_text):
    app = sanctum(views.view(views.watched(groups=1000), directory=RUN))
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, "2")
        panel = app.screen.query_one(EvidencePanel)
        rows = panel.text.splitlines()
        assert "shared part" in rows[1]
        assert "steer" in rows[2]
        assert "1 of 2 heads and 1000 groups lit" in "\n".join(screen_text(app))
        await pressed(pilot, seen, "slash", *"expert.41")
        assert len(panel.text.splitlines()) == 1 + 11  # expert.41 and expert.410 to expert.419
        assert "shared  Inf ○  NaN ● now" in "\n".join(screen_text(app))
        await pressed(pilot, seen, "enter", "down", "down")
        assert panel.chosen == ("expert.411", "", "")
        await pressed(pilot, seen, "escape")
        assert len(panel.text.splitlines()) > 1000


@pytest.mark.parametrize("width", [78, 118])
def test_lights_of_many_heads_fit_and_keep_shared_and_stalled(views, width):
    snapshot = views.watched(heads=box_of(30) | {"steer": "categorical"}, groups=600)
    lines = [line.plain for line in render_lights(views.view(snapshot), width, 4)]
    text = "\n".join(lines)
    assert len(lines) <= 4
    assert all(len(line) <= width for line in lines)
    assert "shared  NaN in advantages" in text
    assert "stalled" in text
    assert "600 groups" in text
    assert "action[0–29]" in text


def test_more_lights_than_lines_are_counted(views):
    snapshot = views.watched(groups=600)
    lit = {f"expert.{number}": True for number in range(50)}
    tamiyo = snapshot.tamiyo
    tamiyo = replace(tamiyo, head_inf_latch=tamiyo.head_inf_latch | lit)
    view = views.view(replace(snapshot, tamiyo=tamiyo))
    lines = [line.plain for line in render_lights(view, 78, 6)]
    assert len(lines) <= 6
    assert "further lights: 2 opens Heads" in "\n".join(lines)


def test_stalled_is_a_light_of_its_own(views):
    view = views.view(stalled(views.watched(is_broken=False)))
    assert view.verdict.level is Level.CRITICAL
    assert "nothing was learnt for 5 updates" in view.verdict.reasons[0]
    assert "stalled" in render_line(view).plain
    assert "stalled" in render_small(view, 60, 6).plain
    text = render_lights(view, 78, 4)[0].plain
    assert text_in_ascii(render_lights(view, 78, 4)[0]).plain
    assert "●  stalled  nothing was learnt for 5 updates" in text


def test_weights_that_move_again_leave_the_light_on(views):
    view = views.view(stalled(views.watched(is_broken=False), updates=0))
    assert view.verdict.level is Level.WARNING
    assert "move again" in render_lights(view, 78, 4)[0].plain
    assert "stalled" in render_line(view).plain


async def test_the_light_stalled_is_acknowledged_like_any_other(views, sanctum, seen, tmp_path):
    app = sanctum(views.view(stalled(views.watched(is_broken=False)), directory=tmp_path))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, "2", "a")
        for _ in range(200):
            if (tmp_path / "acknowledgements.jsonl").exists():
                break
            await pilot.pause(0.02)
    assert '"light":"stalled"' in (tmp_path / "acknowledgements.jsonl").read_text()


def test_a_watched_run_ends_after_updates_not_episodes(fold, payloads):
    start = payloads.start(library="pytorch", episodes=0)
    end = RunFinished(status="finished", update=3, episodes_done=0)
    assert fold(start, end).log[-1].text == "finished after 3 updates"


def test_a_figure_that_is_not_logged_in_every_update_keeps_its_history(fold, payloads):
    start = payloads.start(library="pytorch")
    updates = [
        payloads.update(1, logged={"a": 1.0, "b": 2.0}),
        payloads.update(2, logged={"a": 3.0}),
    ]
    training = fold(start, *updates).training
    assert training.logged == {"a": 3.0}
    assert training.logged_history == {"a": (1.0, 3.0), "b": (2.0,)}


def test_a_watched_run_has_no_light_of_hosts_unless_one_is_lit(fold, payloads):
    start = payloads.start(library="pytorch", heads={"steer": []})
    assert list(fold(start, payloads.update(1)).tamiyo.group_inf_latch) == ["shared"]


def test_a_script_that_has_not_begun_to_watch_has_no_episodes(views):
    view = views.view(SanctumSnapshot(), kind=StatusKind.STARTING, directory=RUN)
    assert "episodes" not in render_header(view, 80, 3).plain


def test_the_time_of_a_watched_run_is_divided_without_hosts(fold, payloads):
    update = payloads.update(1, rollout_seconds=3.0, update_seconds=1.0, hosts_seconds=None)
    shares = fold(payloads.start(library="pytorch"), update).training.time_shares
    assert shares == {"acting": 0.75, "update": 0.25}


#: A hint on a screen: a key, and what it does.
HINT = re.compile(
    r"(?:(?<=[ (:,])|^)(?P<key>[a-zA-Z0-9/]|esc|enter|space|end)"
    r"(?= (?:opens|one|all|shows|closes|changes|ends it|marks|compares|sorts|filters|notes|repeats)"
    r"(?![a-z]))|more: (?P<more>[a-z])\b",
    re.IGNORECASE,
)
KEY_NAMES = {"/": "slash", "esc": "escape"}


@pytest.mark.parametrize("keys", ["1", "2", "2 enter", "5", "6"])
async def test_every_hint_names_a_key_that_works_there(views, sanctum, seen, screen_text, keys):
    snapshot = stalled(views.watched(groups=40))
    shown = with_details(snapshot) if keys in ("1", "5") else snapshot
    app = sanctum(views.view(shown, directory=RUN))
    async with app.run_test(size=(160, 24)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, *keys.split())
        text = "\n".join(screen_text(app)[:-1])
        named = {found["key"] or found["more"] for found in HINT.finditer(text)}
        bound = set(app.screen.active_bindings)
    assert {KEY_NAMES.get(key, key) for key in named} <= bound
    if keys == "1":
        assert {"a", "A", "w", "v"} <= named


async def test_the_key_of_a_hint_in_the_log_works_wherever_the_focus_is(
    views, sanctum, seen, screen_text
):
    app = sanctum(views.view(with_details(views.watched()), directory=RUN))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        assert "(+2 more: v)" in "\n".join(screen_text(app))
        await pressed(pilot, seen, "v")
        text = "\n".join(screen_text(app))
    assert "more: v" not in text
    assert "detail 2" in text


async def test_the_log_is_not_chosen_by_hosts(views, sanctum, seen, screen_text):
    app = sanctum(views.view(views.watched(), directory=RUN))
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        await pressed(pilot, seen, "5")
        assert "host" not in "\n".join(screen_text(app)).lower()
        assert "Host" not in {hint.meaning for hint in hints_of(app.screen)}


async def test_a_replay_is_offered_where_the_capsule_allows_it(views, sanctum, seen):
    snapshot = views.watched()
    for lacks in ("", "a custom training loop"):
        incident = replace(
            snapshot.incidents[0], path="incidents/0001", reason="", why_not_repeated=lacks
        )
        app = sanctum(views.view(replace(snapshot, incidents=(incident,)), directory=RUN))
        async with app.run_test(size=(120, 40)) as pilot:
            await seen(pilot)
            await pressed(pilot, seen, "2", "enter")
            text = app.screen.query_one(IncidentPanel).text
            offered = {hint.meaning for hint in hints_of(app.screen)}
        assert ("Replay" in offered) == (not lacks)
        assert ("r repeats the update" in text) == (not lacks)
        assert ("It cannot be replayed: a custom training loop" in text) == bool(lacks)


async def test_a_script_that_has_not_begun_to_watch_has_no_lights_of_tamiyo(
    views, sanctum, seen, screen_text
):
    view = views.view(SanctumSnapshot(), kind=StatusKind.WAITING, sentence="", directory=RUN)
    app = sanctum(view)
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        text = "\n".join(screen_text(app))
    assert "the script has not called esper.watch yet" in text
    for word in ("Slot", "slot", "Score", "αTarget"):
        assert word not in text

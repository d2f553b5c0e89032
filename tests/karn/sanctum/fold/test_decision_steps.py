"""Stepping through the decisions of an update, from the store and on the screen."""

import struct
from functools import partial

import pytest
from waiting import until

from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.decisions.decision_panels import DecisionListPanel, DecisionPanel
from esper.karn.sanctum.dialogs.help import keys_of
from esper.karn.sanctum.following import decision_steps
from esper.karn.sanctum.following.decision_steps import last_act, moved, steps_of_update
from esper.karn.sanctum.following.follower import RunFollower
from esper.karn.store.reading.run_reader import RunReader
from esper.karn.store.run_store import RunWriter
from esper.leyline.heads import HEAD_CHOICES, HEAD_NAMES, HEAD_SIZES, Op
from esper.leyline.telemetry import DecisionsTaken

STEPS = 8
ALL_CHOICES = sum(HEAD_SIZES)


def taken(update, step, **changes):
    """Return a decision whose value identifies its update and step."""
    values = {
        "update": update,
        "step": step,
        "actions": [[0] * (len(HEAD_NAMES) - 1) + [int(Op.WAIT)]] * 2,
        "probabilities": [[0.5] * len(HEAD_NAMES)] * 2,
        "values": [float(10 * update + step)] * 2,
        "distributions": [struct.pack(f"<{ALL_CHOICES}f", *[0.125] * ALL_CHOICES)] * 2,
    }
    return DecisionsTaken(**(values | changes))


def write_steps(writer, payloads, update, steps):
    for step in steps:
        writer.emit(taken(update, step))
        writer.emit(payloads.step(step, update=update, first_episode=2 * update - 1))


@pytest.fixture
def run(tmp_path, payloads):
    """Return the directory of a run in the middle of its third update."""
    with RunWriter(tmp_path) as writer:
        writer.emit(payloads.start(steps=STEPS))
        for update in (1, 2):
            write_steps(writer, payloads, update, range(1, STEPS + 1))
            writer.emit(payloads.update(update))
        write_steps(writer, payloads, 3, range(1, 6))
    return tmp_path


def numbers(steps):
    return [(step[0].update, step[0].step) for step in steps]


@pytest.mark.parametrize("at_once", [1, 32])
def test_the_steps_of_an_update_are_read(run, monkeypatch, at_once):
    monkeypatch.setattr(decision_steps, "_READ_AT_ONCE", at_once)
    follower = RunFollower(run)
    reader, now = RunReader(run), follower.catch_up().snapshot
    assert numbers(steps_of_update(reader, 3, now.last_event_id, now.run.heads)) == [
        (3, step) for step in range(1, 6)
    ]
    then = follower.state_after(1)
    steps = steps_of_update(reader, 1, then.last_event_id, then.run.heads)
    assert numbers(steps) == [(1, step) for step in range(1, STEPS + 1)]
    assert steps[-1] == then.decisions
    assert steps_of_update(reader, 7, now.last_event_id, now.run.heads) == ()


def test_of_an_update_that_was_trained_again_the_last_time_counts(tmp_path, payloads):
    with RunWriter(tmp_path) as writer:
        writer.emit(payloads.start(steps=STEPS))
        write_steps(writer, payloads, 1, (1, 2, 3, 4))
        writer.emit(payloads.start(steps=STEPS, resumed_from_update=0))
        write_steps(writer, payloads, 1, (1, 2))
    steps = steps_of_update(RunReader(tmp_path), 1, 10**9, HEAD_CHOICES)
    assert numbers(steps) == [(1, 1), (1, 2)]


def test_a_damaged_decision_is_left_out(tmp_path, payloads):
    with RunWriter(tmp_path) as writer:
        writer.emit(payloads.start(steps=STEPS))
        writer.emit(taken(1, 1))
        writer.emit(taken(1, 2, values=[0.0]))
        writer.emit(taken(1, 3))
    assert numbers(steps_of_update(RunReader(tmp_path), 1, 10**9, HEAD_CHOICES)) == [(1, 1), (1, 3)]


def test_moving_stops_at_the_first_and_goes_beyond_the_last(run):
    steps = steps_of_update(RunReader(run), 3, 10**9, HEAD_CHOICES)
    assert moved(steps, 4, -1) is steps[2]
    assert moved(steps, 4, -100) is steps[0]
    assert moved(steps, 4, 1) is steps[4]
    assert moved(steps, 5, 1) is None
    assert moved((), 5, -1) is None


def shown(app):
    """Return the title of the screen, and the value of the chosen host's decision."""
    panel = app.screen.query_one(DecisionListPanel)
    return str(panel.border_title).split(" · ")[1], float(panel.text.split("value ")[1].split()[0])


def is_shown(app, update, step):
    return shown(app) == (f"update {update}, step {step} of 8", 10.0 * update + step)


async def opened(pilot):
    await until(pilot, lambda: pilot.app.view is not None and not pilot.app.view.is_behind)
    await pilot.press("4")
    await until(pilot, lambda: pilot.app.screen.is_complete)


@pytest.fixture
def app(run, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    return SanctumApp(run, run.parent, settings=Settings(reduced_motion=True, closing=False))


async def test_left_and_right_go_through_the_steps_of_the_update(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        assert shown(app) == ("update 3, step 5 of 8", 35.0)
        for key, step in (
            ("right", 5),  # there is none that is newer
            ("left", 4),
            ("left", 3),
            ("right", 4),
            ("shift+left", 1),
            ("left", 1),
            ("right", 2),
            ("shift+right", 5),
        ):
            await pilot.press(key)
            await until(pilot, partial(is_shown, app, 3, step))
        text = app.screen.query_one(DecisionPanel).text
        assert "»WAIT" in text


async def test_keys_pressed_while_it_is_read_all_count(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("left", "left", "left")
        await until(pilot, lambda: shown(app) == ("update 3, step 2 of 8", 32.0))


async def test_a_step_is_held_while_the_run_goes_on(app, run, payloads):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("left")
        await until(pilot, lambda: shown(app) == ("update 3, step 4 of 8", 34.0))
        with RunWriter(run) as writer:
            write_steps(writer, payloads, 3, (6, 7))
        await until(pilot, lambda: app.view.snapshot.run.step == 7)
        assert shown(app) == ("update 3, step 4 of 8", 34.0)
        for step in (5, 6):  # the last one was not there when the others were read
            await pilot.press("right")
            await until(pilot, partial(is_shown, app, 3, step))
        with RunWriter(run) as writer:
            writer.emit(payloads.update(3))
            write_steps(writer, payloads, 4, (1,))
        await until(pilot, lambda: app.view.snapshot.run.update == 3)
        assert shown(app)[0] == "update 3, step 6 of 8"
        await pilot.press("n")
        await until(pilot, lambda: shown(app) == ("update 4, step 1 of 8", 41.0))


async def test_another_moment_shows_its_own_last_step(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("left")
        await until(pilot, lambda: shown(app)[0] == "update 3, step 4 of 8")
        app.action_jump(1)
        await until(pilot, lambda: shown(app) == ("update 1, step 8 of 8", 18.0))
        await pilot.press("left", "left")
        await until(pilot, lambda: shown(app) == ("update 1, step 6 of 8", 16.0))
        await pilot.press("n")
        await until(pilot, lambda: shown(app) == ("update 3, step 5 of 8", 35.0))


async def test_a_store_that_was_deleted_is_reported(app, run):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        (run / "run.sqlite").rename(run / "elsewhere.sqlite")
        await pilot.press("left")
        await until(pilot, lambda: bool(app._notifications))
        assert "there is no run store" in next(iter(app._notifications)).message
        assert shown(app)[0] == "update 3, step 5 of 8"


async def test_the_keys_are_in_the_help(app):
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        keys = {meaning: key for key, meaning in keys_of(app.screen)}
        assert keys["Back or forward by one step of the update"] == "← →"
        assert "First or newest step of the update" in keys


def acted(update, step):
    """Return a decision in which the second host germinates."""
    waits = [0] * (len(HEAD_NAMES) - 1) + [int(Op.WAIT)]
    return taken(update, step, actions=[waits, [*waits[:-1], int(Op.GERMINATE)]])


@pytest.fixture
def ended(tmp_path, payloads):
    """Return the directory of a finished run; after step 2 of its last update all hosts wait."""
    directory = tmp_path / "ended"
    directory.mkdir()
    with RunWriter(directory) as writer:
        writer.emit(payloads.start(steps=STEPS))
        for update in (1, 2):
            for step in range(1, STEPS + 1):
                writer.emit(acted(update, step) if step <= update else taken(update, step))
                writer.emit(payloads.step(step, update=update, first_episode=2 * update - 1))
            writer.emit(payloads.update(update))
        writer.emit(payloads.finish())
    return directory


@pytest.mark.parametrize("at_once", [1, 3, 32])
def test_the_last_step_in_which_something_was_done_is_found(ended, run, monkeypatch, at_once):
    monkeypatch.setattr(decision_steps, "_READ_AT_ONCE", at_once)
    step, steps = last_act(RunReader(ended), 10**9, HEAD_CHOICES)
    assert numbers([step]) == [(2, 2)]
    assert numbers(steps) == [(2, number) for number in range(1, STEPS + 1)]
    then = RunFollower(ended)
    then.catch_up()
    step, _ = last_act(RunReader(ended), then.state_after(1).last_event_id, HEAD_CHOICES)
    assert numbers([step]) == [(1, 1)]
    assert last_act(RunReader(run), 10**9, HEAD_CHOICES) is None, "nothing was ever done"


async def test_a_finished_run_opens_at_the_last_step_in_which_something_was_done(
    ended, monkeypatch
):
    monkeypatch.delenv("NO_COLOR", raising=False)
    app = SanctumApp(ended, ended.parent, settings=Settings(reduced_motion=True, closing=False))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(pilot)
        await until(pilot, partial(is_shown, app, 2, 2))
        panel = app.screen.query_one(DecisionListPanel)
        assert "last step with an action" in str(panel.border_title)
        assert "GERMINATE" in panel.text
        assert panel.chosen == 1, "the host that did something"
        await pilot.press("right")
        await until(pilot, partial(is_shown, app, 2, 3))
        assert "last step with an action" not in str(panel.border_title)
        await pilot.press("n")
        await until(pilot, partial(is_shown, app, 2, 8))

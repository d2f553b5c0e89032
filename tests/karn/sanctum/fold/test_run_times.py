"""How far a run is and how long it will take: from its first second on, and at its own pace."""

import pytest

from esper.karn.sanctum.cockpit.observer import plan_of, read_view
from esper.karn.sanctum.fold.view import Plan
from esper.karn.sanctum.frame.run_header import render_header
from esper.karn.sanctum.frame.run_times import (
    elapsed_seconds,
    planned_episodes,
    progress_share,
    remaining_seconds,
)
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.liveness import StatusKind
from esper.leyline.telemetry import Notice


def _steps(payloads, update, steps, first_episode):
    return [
        payloads.step(step, update=update, first_episode=first_episode)
        for step in range(1, steps + 1)
    ]


def test_progress_moves_with_every_step(fold, payloads):
    start = payloads.start(steps=4)
    shares = []
    for done in range(1, 5):
        state = fold(start, *_steps(payloads, 1, done, 1)).run
        shares.append(state.progress)
    assert shares == [0.5, 1.0, 1.5, 2.0]
    events = [start, *_steps(payloads, 1, 4, 1), payloads.episodes(1), payloads.update(1)]
    assert fold(*events).run.progress == 2.0, "not twice what is done"
    assert fold(*events, *_steps(payloads, 2, 1, 3)).run.progress == 2.5


def test_the_end_is_expected_at_the_pace_of_the_batches_so_far(fold, payloads):
    """Ten episodes, two at a time: a batch of four steps, its episodes and its update take 6 s."""
    events = [payloads.start(steps=4)]
    assert fold(*events).run.expected_end is None
    for batch in (1, 2, 3):
        events += _steps(payloads, batch, 4, 2 * batch - 1)
        events += [payloads.episodes(batch), payloads.update(batch)]
    run = fold(*events).run
    # From 0.5 episodes at the first step to 6 episodes after the third update.
    pace = (6.0 - 0.5) / (run.last_event_at - 1_002.0)
    assert run.expected_end == pytest.approx(run.last_event_at + 4 / pace)


def test_before_the_first_update_the_pace_is_that_of_the_steps(fold, payloads):
    run = fold(payloads.start(steps=4), *_steps(payloads, 1, 3, 1)).run
    assert run.expected_end == pytest.approx(run.last_event_at + (10 - 1.5) / 0.5)


def test_a_run_that_was_resumed_counts_from_where_it_went_on(fold, payloads):
    events = [payloads.start(steps=4), *_steps(payloads, 1, 4, 1), payloads.episodes(1)]
    events += [payloads.update(1), *[Notice(level="info", text="a pause")] * 1000]
    events += [payloads.start(steps=4, resumed_from_update=1), *_steps(payloads, 2, 4, 3)]
    run = fold(*events).run
    assert run.expected_end - run.last_event_at == pytest.approx((10 - 4) / 0.5)


def test_a_run_that_is_over_has_no_time_left(fold, payloads, views):
    snapshot = fold(payloads.start(steps=4), *_steps(payloads, 1, 4, 1), payloads.finish())
    assert snapshot.run.expected_end is None
    going_on = fold(payloads.start(steps=4), *_steps(payloads, 1, 4, 1))
    assert remaining_seconds(views.view(going_on, now=1_005.0)) == pytest.approx(16.0)
    assert remaining_seconds(views.view(going_on, now=1_010.0)) == pytest.approx(11.0)
    assert remaining_seconds(views.view(going_on, kind=StatusKind.DEAD)) is None


@pytest.mark.parametrize(("width", "height"), [(78, 2), (78, 3), (70, 5), (150, 5)])
def test_the_clock_and_the_plan_are_shown_from_the_first_second(
    fold, payloads, views, tmp_path, width, height
):
    plan = Plan(task="digits", episodes=40, environments=8, created_at=1_000.0)
    more = {"kind": StatusKind.WAITING, "plan": plan, "directory": tmp_path}
    nothing = [
        render_header(views.view(SanctumSnapshot(), now=now, **more), width, height).plain
        for now in (1_000.5, 1_001.5)
    ]
    for second, text in enumerate(nothing):
        assert f"elapsed 0:00:0{second}" in text
        assert "episodes 0/40" in text
        assert "starting the training process …" in text
    loading = fold(Notice(level="info", text="loading PyTorch"))
    more["kind"] = StatusKind.STARTING
    text = render_header(views.view(loading, now=1_004.0, **more), width, height).plain
    assert "elapsed 0:00:03" in text
    assert "loading PyTorch …" in text
    if height > 2:
        assert "task digits" in text


def test_the_plan_of_a_run_is_in_its_settings(run):
    assert plan_of(run) is None
    (run / "config.toml").write_text('task = "digits"\nepisodes = 40\nenvs = 8\n')
    view = read_view(run, now=(run / "config.toml").stat().st_mtime + 2.0)
    assert (view.plan.task, planned_episodes(view), view.plan.environments) == ("digits", 40, 8)
    assert elapsed_seconds(view) == pytest.approx(2.0, abs=0.01)
    assert progress_share(view) == 0.0
    (run / "config.toml").write_text("episodes = [")
    assert plan_of(run) is None


@pytest.mark.parametrize(
    ("hosts_seconds", "shares"),
    [
        (6.0, {"hosts": 0.6, "acting": 0.2, "update": 0.2}),
        (None, {"hosts and acting": 0.8, "update": 0.2}),
    ],
)
def test_the_shares_of_time_are_those_of_the_last_update(fold, payloads, hosts_seconds, shares):
    times = {"rollout_seconds": 8.0, "update_seconds": 2.0, "hosts_seconds": hosts_seconds}
    found = fold(payloads.update(1), payloads.update(2, **times)).training.time_shares
    assert found == pytest.approx(shares)
    broken = fold(payloads.update(1, rollout_seconds=0.0, update_seconds=0.0))
    assert broken.training.time_shares == {}

"""The closing screen: it shows itself when a run has ended, steps aside, and is brought back."""

import threading
from dataclasses import replace

import pytest
from checkpoint_files import write_empty_checkpoint
from textual.widgets import Static
from waiting import until

from esper.karn.reports.run_end import NextStep, RunEnd, closing_lines, end_of
from esper.karn.sanctum.cockpit.poller import OVER_SECONDS, PERIOD_SECONDS, Poller
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.dialogs.closing import ClosingScreen
from esper.karn.sanctum.dialogs.quit_dialog import QuitDialog
from esper.karn.sanctum.fold.view import TimePosition
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunWriter, create_run

RUN = "20251122-190000-amber"
END = RunEnd(
    run=RUN,
    ending="finished",
    word="CRITICAL",
    reason="drill: op went Inf in logits, host 1, step 1, update 2",
    score=0.691,
    guides={"never growing": 0.569, "random choices": 0.6, "best hand-written rule": 0.777},
    next_steps=(
        NextStep("watch", f"uv run sanctum {RUN}"),
        NextStep("evaluate", f"uv run esper eval {RUN}"),
        NextStep("grow with it", f"uv run esper grow --task mnist1d --out grown --policy {RUN}"),
        NextStep("train longer", f"uv run esper ppo --resume {RUN} --episodes 20"),
    ),
)


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """Return how often the end of a run was read, and give every run the same one."""
    read = []

    def end_of_any(directory):
        read.append(directory)
        return END

    monkeypatch.setattr("esper.karn.reports.run_end.end_of", end_of_any)
    return read


@pytest.fixture
def over(views, tmp_path):
    """Return the view of a run that is over, in a new folder."""
    return views.view(kind=StatusKind.FINISHED, sentence="finished", directory=tmp_path / RUN)


def is_shown(app):
    return isinstance(app.screen, ClosingScreen)


async def test_it_shows_itself_when_the_run_ends_and_only_then(
    views, sanctum, seen, screen_text, ended, over
):
    live = replace(over, status=views.view().status)
    app = sanctum(live)
    async with app.run_test(size=(120, 40)) as pilot:
        await seen(pilot)
        assert not is_shown(app)
        assert "z End" not in screen_text(app)[-1]
        await pilot.press("z")  # nothing has ended yet
        assert not is_shown(app)
        app.shown.append(over)
        await until(pilot, lambda: is_shown(app))
        await pilot.press("escape")
        await seen(pilot)
        assert not is_shown(app)
        assert "z End" in screen_text(app)[-1]
        # Further readings of the same run do not bring it back; the key does.
        app.shown.append(replace(over, now=over.now + 1))
        await seen(pilot)
        assert not is_shown(app)
        assert ended == [over.directory]
        await pilot.press("z")
        await until(pilot, lambda: is_shown(app))
        # It was resumed, and ends again.
        await pilot.press("escape")
        app.shown.append(replace(live, now=over.now + 2))
        await seen(pilot)
        app.shown.append(replace(over, now=over.now + 3))
        await until(pilot, lambda: is_shown(app))


async def test_other_keys_close_it_and_do_what_they_always_do(sanctum, seen, ended, over):
    app = sanctum(over)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_shown(app))
        await pilot.press("4")
        await until(pilot, lambda: app.current_mode == "Decisions")
        assert not is_shown(app)
        await pilot.press("z")
        await until(pilot, lambda: is_shown(app))
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)


async def test_its_commands_are_copied_whole(sanctum, ended, over):
    app = sanctum(over)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_shown(app))
        await pilot.press("y")
        await until(pilot, lambda: app.clipboard)
        assert app.clipboard.splitlines() == [step.command for step in END.next_steps]
        assert is_shown(app)


@pytest.mark.parametrize("why", ["setting", "past", "small"])
async def test_it_stays_away_where_it_would_be_in_the_way(sanctum, seen, ended, over, why):
    view = replace(over, position=TimePosition(2, 36)) if why == "past" else over
    settings = Settings(reduced_motion=True, closing=why != "setting")
    app = sanctum(view, settings=settings)
    async with app.run_test(size=(60, 10) if why == "small" else (80, 24)) as pilot:
        await seen(pilot)
        assert not is_shown(app)
        assert not ended
        await pilot.press("z")  # it can still be opened
        await until(pilot, lambda: is_shown(app))


async def test_it_waits_for_a_dialog_that_is_open(views, sanctum, seen, child, ended, over):
    app = sanctum(replace(over, status=views.view().status), child=child)
    async with app.run_test(size=(80, 24)) as pilot:
        await seen(pilot)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, QuitDialog))
        app.shown.append(over)
        await seen(pilot)
        assert isinstance(app.screen, QuitDialog)
        await pilot.press("escape")
        app._poller.poll_now()
        await until(pilot, lambda: is_shown(app))


@pytest.mark.parametrize("size", [(80, 24), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
async def test_all_of_it_fits(sanctum, ended, over, screen_text, size):
    app = sanctum(over)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: is_shown(app) and app.screen.query(Static))
        await pilot.pause()
        assert app.screen.query_one("#closing").max_scroll_y == 0
        assert app.screen.query_one("#closing").max_scroll_x == 0
        shown = " ".join("\n".join(screen_text(app)).split())
        for words in (RUN, "CRITICAL", "drill: op went Inf", "0.691", "0.777", "--episodes"):
            assert words in shown


async def test_what_broke_where_and_the_next_command_fit_on_a_small_terminal(
    sanctum, over, screen_text, monkeypatch
):
    replay = NextStep("replay", f"uv run esper replay {RUN}")
    origin = (
        "began in addmm, forward pass, at stable_baselines3/common/torch_layers.py:258: an input "
        "was not finite already: obs_tensor[0, 1] is NaN"
    )
    with_incident = replace(END, origin=origin, next_steps=(replay, *END.next_steps))
    monkeypatch.setattr("esper.karn.reports.run_end.end_of", lambda _: with_incident)
    app = sanctum(over)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: is_shown(app) and app.screen.query(Static))
        await pilot.pause()
        assert app.screen.query_one("#closing").max_scroll_y == 0
        rows = [row.strip(" │") for row in screen_text(app)]
    shown = " ".join(" ".join(rows).split())
    assert END.reason in shown
    assert origin in shown
    (place,) = [place for place, row in enumerate(rows) if row.startswith("replay")]
    assert rows[place].endswith(replay.command)
    assert rows[place - 1] == "what to do next"


@pytest.mark.parametrize("size", [(80, 24), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_closing_screen(sanctum, seen, ended, over, snap_compare, size):
    async def show(pilot):
        await until(pilot, lambda: is_shown(pilot.app))
        await seen(pilot)

    assert snap_compare(sanctum(over), terminal_size=size, run_before=show)


def test_console_and_closing_screen_say_the_same(payloads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = create_run(tmp_path / "runs", "amber")
    with RunWriter(run) as writer:
        writer.emit(payloads.start(episodes=2))
        writer.emit(payloads.episodes(1))
        writer.emit(payloads.broken_update(1, "op", "+inf"))
        writer.emit(payloads.finish("finished", update=1, episodes_done=2))
    write_empty_checkpoint(run, 1, episodes_done=2)
    end, lines = end_of(run), closing_lines(run)
    assert lines[0] == f"{end.run} {end.ending}, {end.verdict}"
    assert [line.strip() for line in lines[3:]] == [step.command for step in end.next_steps]
    assert [step.purpose for step in end.next_steps] == [
        "watch",
        "evaluate",
        "grow with it",
        "train longer",
    ]


def test_a_run_that_is_over_and_stands_still_is_looked_at_less_often(views, over, tmp_path):
    shown = []
    poller = Poller(
        lambda now: shown[-1],
        tmp_path,
        clock=lambda: 0.0,
        screen=lambda: None,
        complete=lambda view: view,
    )

    class Wake(threading.Event):
        waited = ()

        def wait(self, timeout=None):
            self.waited += (timeout,)
            return True

    poller._wake = Wake()
    playing = TimePosition(2, 36, speed=4)
    for view in (views.view(), over, replace(over, position=playing), over):
        shown.append(view)
        poller._read(poller.observer)
    assert poller._wake.waited == (PERIOD_SECONDS, OVER_SECONDS, PERIOD_SECONDS, OVER_SECONDS)

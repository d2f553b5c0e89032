"""The Runs screen: opening and comparing runs."""

import shutil
import threading
from dataclasses import replace

import pytest
from waiting import until

from esper.karn.reports.run_catalogue import list_runs
from esper.karn.reports.run_comparison import compare_runs
from esper.karn.sanctum.cockpit.app import SanctumApp
from esper.karn.sanctum.cockpit.settings import Settings
from esper.karn.sanctum.frame.run_screen import RunsUpdated
from esper.karn.sanctum.runs.comparison_panel import ComparisonPanel
from esper.karn.sanctum.runs.run_lines import OPEN
from esper.karn.sanctum.runs.runs_panel import RunsPanel
from esper.karn.sanctum.runs.screen import RunsScreen
from esper.karn.store.run_directory import create_run
from esper.karn.store.run_store import RunWriter


async def test_a_comparison_that_takes_long_is_shown_though_its_runs_go_on(
    three_runs, open_runs, monkeypatch
):
    asked, answer = [], threading.Event()

    def slowly(*directories):
        asked.append(directories)
        answer.wait(20)
        return compare_runs(*directories)

    monkeypatch.setattr("esper.karn.sanctum.runs.screen.compare_runs", slowly)
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.press("space", "down", "c")
        for update in (5, 6, 7):
            runs = [replace(run, update=update) for run in list_runs(three_runs)]
            app.screen.on_runs_updated(RunsUpdated(runs))
        answer.set()
        panel = app.screen.query_one(ComparisonPanel)
        await app.until(pilot, lambda: "Inf seen in" in panel.text)
        await app.until(pilot, lambda: len(asked) >= 2)
        assert len(asked) <= 3, "once at first, once for what came meanwhile, and as it stands"


@pytest.fixture
def three_runs(tmp_path, payloads):
    """Return a folder of three runs, in one of which `op` went Inf."""
    run_dir = tmp_path / "runs"
    for name in ("amber", "birch", "cedar"):
        with RunWriter(create_run(run_dir, name)) as writer:
            writer.emit(payloads.start(name=name))
            writer.emit(payloads.update(1))
            if name == "birch":
                writer.emit(payloads.broken_update(2, "op", "+inf"))
            writer.emit(payloads.finish(update=2, episodes_done=4))
    return run_dir


@pytest.fixture
def open_runs(monkeypatch):
    """Return a function that opens a folder of runs in the real app."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    def make(run_dir):
        app = SanctumApp(None, run_dir, settings=Settings(reduced_motion=True, closing=False))
        app.until = until
        return app

    return make


async def test_all_runs_are_listed_and_one_can_be_opened(three_runs, open_runs, screen_text):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        lines = screen_text(app)
        (birch,) = [line for line in lines if "-birch" in line]
        assert "● Inf op" in birch
        (amber,) = [line for line in lines if "-amber" in line]
        assert "○" in amber
        assert lines.index(birch) < lines.index(amber)  # the newest first
        await pilot.press("down", "enter")
        await app.until(pilot, lambda: app.view and app.view.snapshot.run.name == "birch")
        assert app.current_mode == "Overview"


async def test_a_double_click_opens_a_run(three_runs, open_runs):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.double_click(RunsPanel, offset=(8, 1))  # the heading
        await pilot.click(RunsPanel, offset=(8, 3))
        assert app.current_mode == "Runs"
        await pilot.double_click(RunsPanel, offset=(8, 3))
        await app.until(pilot, lambda: app.view and app.view.snapshot.run.name == "birch")
        assert app.current_mode == "Overview"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_lights_and_what_is_wrong_are_seen_before_the_rest(
    tmp_path, payloads, open_runs, screen_text, size
):
    run_dir = tmp_path / "a-folder-with-a-long-name" / "runs"
    with RunWriter(create_run(run_dir, "amber")) as writer:
        writer.emit(payloads.start(name="amber"))
        for kind in ("+inf", "nan"):
            writer.emit(payloads.broken_update(2, "op", kind))
    (create_run(run_dir, "birch") / "run.sqlite").write_text("no database at all" * 100)
    app = open_runs(run_dir)
    async with app.run_test(size=size) as pilot:
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.query_one(RunsPanel).text.count("\n") == 2)
        text = "\n".join(screen_text(app))
        assert "● Inf op  ● NaN op" in text
        assert "UNREADABLE " in text
        assert "! run.sqlite is not" in text


async def test_two_runs_are_compared_side_by_side(three_runs, open_runs, screen_text):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.press("c")
        assert "a comparison needs at least two runs" in next(iter(app._notifications)).message
        await pilot.press("space", "down", "space", "space", "space", "c")
        assert len(app.screen.query_one(RunsPanel).marked) == 2
        panel = app.screen.query_one(ComparisonPanel)
        await app.until(pilot, lambda: "Inf seen in" in panel.text)
        (line,) = [line for line in panel.text.splitlines() if line.startswith("Inf seen in")]
        assert line.split()[-2:] == ["–", "op"]
        await pilot.press("escape")
        assert isinstance(app.focused, RunsPanel)
        assert isinstance(app.screen, RunsScreen)


async def test_a_comparison_goes_on_with_its_runs(three_runs, open_runs, payloads):
    app = open_runs(three_runs)
    (birch,) = three_runs.glob("*birch")
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        await pilot.press("space", "down", "c")
        panel = app.screen.query_one(ComparisonPanel)

        def updates():
            lines = [line for line in panel.text.splitlines() if line.startswith("updates")]
            return lines and lines[0].split()[1:3]

        await app.until(pilot, lambda: updates() == ["1", "2"])
        with RunWriter(birch) as writer:
            writer.emit(payloads.start(name="birch", resumed_from_update=2))
            writer.emit(payloads.update(3), durable=True)
            await app.until(pilot, lambda: updates() == ["1", "3"])


async def test_a_folder_without_runs_is_reported(tmp_path, open_runs, screen_text):
    app = open_runs(tmp_path / "none")
    async with app.run_test(size=(80, 24)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        assert any("no runs yet" in line for line in screen_text(app))
        await pilot.press("enter", "space", "c")
        assert isinstance(app.screen, RunsScreen)


async def test_a_deleted_folder_of_runs_differs_from_an_empty_one(
    three_runs, open_runs, screen_text
):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        shutil.rmtree(three_runs)
        await app.until(pilot, lambda: "is gone" in "\n".join(screen_text(app)))
        text = "\n".join(screen_text(app))
        assert f"! the folder {three_runs} is gone" in " ".join(text.split())
        assert "no runs to show" in text
        assert "no runs yet" not in text


async def test_the_run_that_is_open_is_marked_in_the_list(three_runs, open_runs, screen_text):
    app = open_runs(three_runs)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.until(pilot, lambda: app.view is not None)
        await pilot.press("6")
        await app.until(pilot, lambda: app.screen.is_complete)
        (line,) = [line for line in screen_text(app) if OPEN in line]
        assert app.view.directory.name in line
        assert any("enter open" in line for line in screen_text(app))

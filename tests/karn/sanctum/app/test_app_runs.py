"""The list of runs: sorted, filtered, with notes, and with no column that vanishes in silence."""

import math
import time
from dataclasses import replace

import pytest
from textual.widgets import Static

from esper.karn.reports.run_catalogue import RunCatalogue
from esper.karn.reports.run_folder.run_summary import FirstLight, RunSummary
from esper.karn.sanctum.frame.run_screen import RunsUpdated
from esper.karn.sanctum.runs.comparison_panel import ComparisonPanel
from esper.karn.sanctum.runs.funnel_panel import FunnelPanel
from esper.karn.sanctum.runs.run_lines import MARK, RunLines
from esper.karn.sanctum.runs.runs_panel import RunsPanel
from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.store.run_files.run_note import LONGEST_NOTE, NoteError, read_note, write_note
from esper.karn.text.palette import DARK


@pytest.fixture
def runs(tmp_path):
    """Return five runs, oldest first."""

    def one(number, name, kind, **more):
        directory = tmp_path / f"20251122-19000{number}-{name}"
        directory.mkdir()
        known = {
            "run_id": directory.name,
            "path": directory,
            "status": RunStatus(kind, 1.0, ""),
            "name": directory.name,
            "started_at": 1_763_838_000.0 + number,
            "update": number,
            "episodes_done": 8,
            "episodes": 400,
            "score": 0.1 * number,
            "inf_heads": (),
            "nan_heads": (),
            "inf_groups": (),
            "nan_groups": (),
            "task": "mnist1d",
            "best_score": 0.9 - 0.1 * number,
        }
        return RunSummary(**known | more)

    return (
        one(1, "amber", StatusKind.FINISHED),
        one(2, "birch", StatusKind.HALTED, inf_heads=("op",), incidents=3),
        one(3, "cedar", StatusKind.DEAD, score=math.nan, task="digits"),
        one(4, "douglas", StatusKind.FINISHED, score=None, note="the one with the low rate"),
        one(5, "elm", StatusKind.LIVE, incidents=12),
    )


@pytest.fixture
def listed(views, sanctum, seen, runs):
    """Return a function that shows the runs and runs a test on them."""

    async def run(test, size=(80, 24)):
        app = sanctum(views.view(views.healthy()))
        app._poller._read_runs = lambda _screen: False  # there is no folder behind this
        async with app.run_test(size=size) as pilot:
            await seen(pilot)
            await pilot.press("6")
            await pilot.pause()
            await seen(pilot)
            app.screen.on_runs_updated(RunsUpdated(runs))
            await pilot.pause()
            await test(pilot, app, app.screen.query_one(RunsPanel))

    return run


def _order(panel):
    lines = panel.text.splitlines()[1:]
    return [line.split("-")[2].split()[0] for line in lines]


async def test_runs_are_sorted_by_what_is_asked_for(listed):
    async def test(pilot, app, panel):
        summary = app.screen.query_one("#runs-summary", Static)
        orders = {}
        for _ in range(6):
            orders[panel.order] = _order(panel)
            assert f"sorted by {panel.order}" in str(summary.render())
            await pilot.press("o")
            await pilot.pause()
        assert panel.order == "newest"
        assert orders == {
            "newest": ["elm", "douglas", "cedar", "birch", "amber"],
            "score": ["elm", "birch", "amber", "douglas", "cedar"],
            "best": ["amber", "birch", "cedar", "douglas", "elm"],
            "incidents": ["elm", "birch", "douglas", "cedar", "amber"],
            "status": ["cedar", "douglas", "amber", "birch", "elm"],
            "name": ["amber", "birch", "cedar", "douglas", "elm"],
        }

    await listed(test)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("finished", ["douglas", "amber"]),
        ("low rate", ["douglas"]),
        ("DIGITS", ["cedar"]),
        ("inf op", ["birch"]),
        ("finished amber", ["amber"]),
        ("nowhere", []),
    ],
)
async def test_runs_are_filtered_by_a_text(listed, screen_text, text, found):
    async def test(pilot, app, panel):
        keys = ["space" if sign == " " else sign for sign in text]
        await pilot.press("slash", *keys, "enter")
        await pilot.pause()
        assert (_order(panel) if found else []) == found
        shown = "\n".join(screen_text(app))
        assert f"{len(found)} of 5 runs" in shown
        assert ("no run matches the filter" in shown) == (not found)
        await pilot.press("escape")
        await pilot.pause()
        assert len(_order(panel)) == 5

    await listed(test)


async def test_a_note_is_written_to_a_separate_file_and_shown(listed, runs, screen_text):
    async def test(pilot, app, panel):
        await pilot.press("down")
        assert "note: the one with the low rate" in "\n".join(screen_text(app))
        await pilot.press("home", "e", *"my", "space", *"note", "enter")
        deadline = time.monotonic() + 20
        while read_note(runs[-1].path) != "my note":
            assert time.monotonic() < deadline, "the note was never written"
            await pilot.pause(0.01)
        app.screen.on_runs_updated(RunsUpdated([*runs[:-1], replace(runs[-1], note="my note")]))
        await pilot.pause()
        assert "note: my note" in "\n".join(screen_text(app))
        await pilot.press("e", "escape")
        assert read_note(runs[-1].path) == "my note", "escape does not change it"

    await listed(test)


def test_a_note_is_one_line_and_an_empty_one_removes_it(tmp_path, full_disk):
    write_note(tmp_path, "  two\nlines\x1b[31m  and \t more ")
    assert read_note(tmp_path) == "two lines\N{REPLACEMENT CHARACTER}[31m and more"
    write_note(tmp_path, "x" * 2_000)
    assert len(read_note(tmp_path)) == LONGEST_NOTE
    with full_disk(), pytest.raises(NoteError, match="cannot be written to"):
        write_note(tmp_path, "y")
    assert read_note(tmp_path).startswith("x")
    write_note(tmp_path, " ")
    assert [path.name for path in tmp_path.iterdir()] == []
    assert read_note(tmp_path / "nowhere") == ""


def test_a_note_that_changed_is_seen_without_a_change_of_the_store(finished_run):
    catalogue = RunCatalogue(finished_run.parent)
    assert catalogue.look(1.0).runs[0].note == ""
    write_note(finished_run, "good")
    assert catalogue.look(2.0).runs[0].note == "good"


async def test_any_number_of_runs_can_be_marked_and_compared(listed, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "esper.karn.sanctum.runs.screen.RunsScreen._compare",
        lambda screen, runs: asked.append([run.run_id.split("-")[2] for run in runs]),
    )

    async def test(pilot, app, panel):
        await pilot.press("space", "down", "down", "space", "down", "space", "c")
        await pilot.pause()
        assert asked == [["elm", "cedar", "birch"]]
        assert app.focused is app.screen.query_one(ComparisonPanel)

    await listed(test)


@pytest.mark.parametrize("width", [70, 78, 100, 118, 198])
def test_what_has_no_room_is_named_and_incidents_always_have(runs, width):
    lines = [line.plain for line in RunLines().lines(runs, width, DARK)]
    hidden = RunLines().hidden_columns(runs, width, DARK)
    assert max(map(len, lines)) <= width
    heading = lines[0].split()
    assert "incidents" in heading or "inc." in heading
    assert any(line.split()[-1:] == ["12"] or " 12" in line for line in lines[1:])
    shown = {"inc.": "incidents", "upd.": "updates"}
    assert {shown.get(word, word) for word in heading} | set(hidden) >= {
        "status", "started", "task", "updates", "episodes", "score", "lights", "best",
        "incidents", "note",
    }  # fmt: skip


async def test_settings_that_differ_are_a_column_where_there_is_room(listed, runs):
    async def test(pilot, app, panel):
        rates = (0.1, 0.2, 0.1, 0.2, 0.1)
        swept = [
            replace(run, settings={"rate": rate, "envs": 8}, note="swept")
            for run, rate in zip(runs, rates, strict=True)
        ]
        app.screen.on_runs_updated(RunsUpdated(swept[1:]))
        await pilot.pause()
        assert panel.text.splitlines()[1].endswith("swept  rate 0.1")
        assert panel.text.splitlines()[2].endswith("swept  rate 0.2")
        assert "envs" not in panel.text

    await listed(test, size=(160, 24))


def test_only_the_line_of_a_changed_run_is_built_again(runs):
    lines = RunLines()
    before = lines.lines(runs, 120, DARK)
    changed = (*runs[:-1], replace(runs[-1], update=6))
    after = lines.lines(changed, 120, DARK, marked=[runs[0].path])
    assert [one is other for one, other in zip(before[1:], after[1:], strict=True)] == [
        False,  # marked since
        True,
        True,
        True,
        False,  # changed
    ]
    assert MARK in after[1].plain
    fresh = RunLines().lines(changed, 120, DARK, marked=[runs[0].path])
    assert [line.plain for line in after] == [line.plain for line in fresh]


async def test_a_filter_is_that_of_esper_runs_and_a_bad_one_says_why(listed, screen_text):
    async def test(pilot, app, panel):
        for text, found in (
            ("lit:op", ["birch"]),
            ("status:finished sort:score", ["amber", "douglas"]),
            ("update>=4", ["elm", "douglas"]),
        ):
            panel.filter(text)
            assert _order(panel) == found
        panel.filter("update>=")
        await pilot.pause()
        assert _order(panel) == ["elm", "douglas"], "what was there stays while typing"
        assert "! 'update>=' has no value" in "\n".join(screen_text(app))
        panel.filter("updat>=4")
        await pilot.pause()
        shown = "\n".join(screen_text(app))
        assert "no run has a setting 'updat'; did you mean update?" in shown
        panel.filter("")
        assert len(_order(panel)) == 5

    await listed(test)


async def test_the_funnel_goes_through_the_settings_that_differ(listed, runs, screen_text):
    async def test(pilot, app, panel):
        swept = [
            replace(
                run,
                settings={"rate": 0.1 if number % 2 else 0.2},
                first_light=FirstLight("Inf", "op", 7, False) if run.inf_heads else None,
            )
            for number, run in enumerate(runs)
        ]
        app.screen.on_runs_updated(RunsUpdated([replace(run, note="new") for run in swept]))
        await pilot.press("f")
        await pilot.pause()
        funnel = app.screen.query_one(FunnelPanel)
        assert [" ".join(line.split()) for line in funnel.text.splitlines()] == [
            "which head or group lit first, by rate",
            "████████████░░░░░░░░░░░░ 50% of 2 runs with rate 0.1 1 lit: 1 op first (update 7)",
            "░░░░░░░░░░░░░░░░░░░░░░░░ 0% of 3 runs with rate 0.2 none lit",
        ]
        panel.filter("rate:0.2")
        await pilot.pause()
        assert "3 runs with rate 0.2" in funnel.text
        assert "rate 0.1" not in funnel.text
        await pilot.press("f")
        await pilot.pause()
        assert "all runs" in funnel.text
        await pilot.press("f")
        await pilot.pause()
        assert not funnel.display

    await listed(test, size=(120, 40))

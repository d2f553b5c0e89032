"""A run in one line, and in the few lines of a terminal that is too small for a screen."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from esper.commands.sanctum import print_status_line
from esper.karn.sanctum.frame.status_line import render_line, render_small
from esper.karn.sanctum.schema import SanctumSnapshot
from esper.karn.store.errors import RunStoreError
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import RunWriter


def _timed(snapshot):
    run = replace(snapshot.run, expected_end=snapshot.run.last_event_at + 1_560.5, progress=291.0)
    return replace(snapshot, run=run)


def test_a_line_says_how_a_run_is_how_far_and_how_good(views):
    line = render_line(views.view(_timed(views.healthy()))).plain
    assert line == "● HEALTHY · LIVE · 73% · 26 min left · score 0.584 · amber"


def test_a_light_comes_before_everything_else(views):
    view = views.view(_timed(views.broken()))
    assert render_line(view).plain.startswith("● CRITICAL · op Inf, op NaN · LIVE · 73%")
    assert render_line(view, 32).plain == "● CRITICAL · op Inf, op NaN"


def test_what_is_the_matter_with_the_process_is_in_the_line(views):
    view = views.view(kind=StatusKind.DEAD, sentence="process 7 is gone")
    assert "● CRITICAL · process 7 is gone · DEAD" in render_line(view).plain


def test_a_run_that_starts_has_a_clock_in_its_line(views):
    view = views.view(
        replace(SanctumSnapshot(), run=replace(SanctumSnapshot().run, started_at=10.0)),
        kind=StatusKind.STARTING,
        sentence="process 7 is starting: loading PyTorch",
        now=15.0,
    )
    assert "loading PyTorch · STARTING · 0:00:05" in render_line(view).plain


@pytest.mark.parametrize("height", range(1, 9))
@pytest.mark.parametrize("width", [1, 5, 12, 30, 71])
def test_at_any_size_the_verdict_comes_first_and_nothing_is_cut(views, width, height):
    for view in (views.view(_timed(views.broken())), views.waiting(), views.view(error="damaged")):
        lines = render_small(view, width, height).split("\n")
        assert len(lines) <= height
        assert max(line.cell_len for line in lines) <= width
        if width >= 12:
            assert lines[0].plain.startswith(("● CRITICAL", "● WAITING", "● NO DATA"))


@pytest.mark.parametrize("size", [(71, 1), (40, 1), (60, 3), (71, 22), (30, 10)])
async def test_a_small_pane_shows_the_run(views, sanctum, seen, screen_text, size):
    app = sanctum(views.view(views.broken()))
    async with app.run_test(size=size) as pilot:
        await seen(pilot)
        lines = screen_text(app)
        assert lines[0].startswith("● CRITICAL")
        assert "op" in lines[0]
        if size[1] >= 10:
            text = "\n".join(lines)
            for shown in ("amber", "LIVE", "288/400", "score 0.584", "elapsed"):
                assert shown in text
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "Action heads" in "\n".join(screen_text(app))


def _line(directory, **more):
    console = Console(file=io.StringIO(), width=40)
    code = print_status_line(directory, console=console, **more)
    return code, console.file.getvalue()


def test_the_line_is_printed_whole_with_the_exit_code_of_health(finished_run):
    code, line = _line(finished_run)
    assert code == 1
    assert line.startswith("● CRITICAL · op Inf · FINISHED · 40% · score 0.5")
    assert line.count("\n") == 1
    assert _line(finished_run, at=1)[0] == 0
    assert _line(finished_run, ascii_only=True)[1].isascii()


def test_a_run_whose_lights_are_not_known_is_an_error(run, payloads):
    with pytest.raises(RunStoreError, match="no events yet"):
        _line(run)
    with RunWriter(run) as writer:
        writer.emit(payloads.start())
    assert _line(run)[0] == 0
    (run / "run.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RunStoreError):
        _line(run)

"""A replay in a separate process."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.karn.sanctum.heads.replaying import (
    ReplayFailedError,
    read_report,
    replay_command,
    run_replay,
)


def _python(code):
    return [sys.executable, "-c", code]


def test_the_command_is_what_anybody_would_type():
    command = replay_command(Path("/runs/amber"), 3)
    assert command[:4] == [sys.executable, "-m", "esper", "replay"]
    assert command[4:] == [str(Path("/runs/amber").resolve()), "3", "--json"]


def test_a_report_is_read(replay_report):
    report = read_report(json.dumps(replay_report))
    assert report.verdict == "reproduced"
    assert report.origin.op == "aten.mm.default"
    assert report.origin.cause == "the weight of op was too large"
    assert [one.line for one in report.chain] == [88, 88, 90]


def test_a_newer_report_with_more_in_it_is_read_too(replay_report):
    assert read_report(json.dumps(replay_report | {"more": {"of": [1]}})).verdict == "reproduced"


@pytest.mark.parametrize(
    "output", ["", "no", "[]", "{}", '{"verdict": 3}', "[" * 100_000, "null", "NaN"]
)
def test_an_invalid_report_is_reported_in_one_sentence(output):
    with pytest.raises(ReplayFailedError) as caught:
        read_report(output)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_no_output_makes_it_fail_in_another_way(output):
    with pytest.raises(ReplayFailedError):
        read_report(output)


async def test_the_process_is_run_and_its_report_returned(replay_report):
    code = f"import sys; print({json.dumps(replay_report)!r}); sys.exit(1)"
    assert (await run_replay(_python(code))).update == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit('esper: there is no run')", "exit code 1: there is no run"),
        ("raise RuntimeError('no memory')", "exit code 1: RuntimeError: no memory"),
        ("import os; os._exit(7)", "exit code 7: it gave no reason"),
        ("print('hello')", "report cannot be read"),
    ],
)
async def test_the_reason_why_a_process_made_no_report_is_shown(code, reason):
    with pytest.raises(ReplayFailedError, match=reason):
        await run_replay(_python(code))


async def test_a_program_that_is_not_there_says_so():
    with pytest.raises(ReplayFailedError, match="could not be started"):
        await run_replay(["/nowhere/python", "-m", "esper"])


async def test_cancelling_a_replay_ends_its_process(tmp_path):
    pid_file = tmp_path / "pid"
    code = (
        f"import os, time; open({str(pid_file)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(600)"
    )
    task = asyncio.create_task(run_replay(_python(code)))
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text().endswith(" ")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)

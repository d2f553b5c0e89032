"""Replays an incident in a process of its own, and reads what `esper replay --json` reports.

Karn never loads what trains: the replay is asked for on the command line, as anybody would.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from esper.leyline.errors import EsperError

_SHOWN_ERROR: Final = 300  # characters of what the process complained


class ReplayFailedError(EsperError, ValueError):
    """There is no report of the replay; one sentence says why."""


class ReplayedOperation(msgspec.Struct, frozen=True):
    """One operation on the way from where it began to where it was seen."""

    op: str
    phase: str = ""
    epoch: int | None = None  # counted from 1; None before the first minibatch
    minibatch: int | None = None
    module: str = ""
    derivative: str = ""
    file: str = ""
    line: int = 0
    function: str = ""
    code: str = ""


class ReplayOrigin(ReplayedOperation, frozen=True):
    """The operation that turned what was finite into what was not."""

    cause: str = ""


class ReplayedSighting(msgspec.Struct, frozen=True):
    """Where something was seen that was not finite."""

    head: str
    quantity: str
    kind: str
    epoch: int = 0
    minibatch: int = 0


class ReplayReport(msgspec.Struct, frozen=True):
    """What a replay found; the fields are those of `esper replay --json`."""

    verdict: str
    update: int = 0
    differences: list[str] = []
    remarks: list[str] = []
    recorded: list[ReplayedSighting] = []
    seen: list[ReplayedSighting] = []
    origin: ReplayOrigin | None = None
    chain: list[ReplayedOperation] = []


def replay_command(directory: Path, number: int) -> list[str]:
    """Return the command that replays an incident of the run in `directory`."""
    # The absolute path: a run is found by it, whatever folder holds it.
    run = str(directory.resolve())
    return [sys.executable, "-m", "esper", "replay", run, str(number), "--json"]


def read_report(output: str) -> ReplayReport:
    """Return the report that `output` holds.

    Raises:
        ReplayFailedError: it is not one.
    """
    try:
        return msgspec.convert(json.loads(output), ReplayReport)
    except (ValueError, RecursionError) as error:  # msgspec.ValidationError is a ValueError
        raise ReplayFailedError(f"the replay's report cannot be read: {error}") from error


async def run_replay(command: Sequence[str]) -> ReplayReport:
    """Run a replay and return its report; whoever cancels this ends the process with it.

    Raises:
        ReplayFailedError: it could not be started, or ended without a report.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ReplayFailedError(f"the replay could not be started: {error}") from error
    try:
        output, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if output.strip():
        return read_report(output.decode(errors="replace"))
    # Bad input is one sentence; of a traceback the last line says what it was.
    said = complaint.decode(errors="replace").strip().splitlines()
    why = said[-1].removeprefix("esper: ") if said else "it did not say why"
    raise ReplayFailedError(
        f"the replay ended with exit code {process.returncode}: {why[:_SHOWN_ERROR]}"
    )

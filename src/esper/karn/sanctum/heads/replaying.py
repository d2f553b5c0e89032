"""Runs `esper replay --json` in another process, and reads its report.

Karn never imports the training code, so a replay is started from the command line.
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

_LONGEST_ERROR: Final = 300  # characters


class ReplayFailedError(EsperError, ValueError):
    """A replay ended without a report; the message is one sentence."""


class ReplayedOperation(msgspec.Struct, frozen=True):
    """One operation between the origin and the sighting."""

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
    """The operation that turned finite inputs into a non-finite output."""

    cause: str = ""


class ReplayedSighting(msgspec.Struct, frozen=True):
    """One non-finite value that the replay saw."""

    head: str
    quantity: str
    kind: str
    epoch: int = 0
    minibatch: int = 0


class ReplayReport(msgspec.Struct, frozen=True):
    """The result of a replay; the fields are those of `esper replay --json`."""

    verdict: str
    update: int = 0
    acting: bool = False  # a choice of actions was repeated, which has no minibatch
    differences: list[str] = []
    remarks: list[str] = []
    recorded: list[ReplayedSighting] = []
    seen: list[ReplayedSighting] = []
    origin: ReplayOrigin | None = None
    chain: list[ReplayedOperation] = []


def replay_command(directory: Path, number: int) -> list[str]:
    """Return the command that replays an incident of the run in `directory`."""
    # An absolute path identifies the run, whatever folder holds it.
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
    """Run a replay and return its report; cancelling this ends the process.

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
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if output.strip():
        return read_report(output.decode(errors="replace"))
    # Bad input gives one sentence; the last line of a traceback names the exception.
    lines = errors.decode(errors="replace").strip().splitlines()
    why = lines[-1].removeprefix("esper: ") if lines else "it gave no reason"
    raise ReplayFailedError(
        f"the replay ended with exit code {process.returncode}: {why[:_LONGEST_ERROR]}"
    )

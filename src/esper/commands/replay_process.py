"""The child process in which `esper replay` repeats an incident.

A capsule may come from an untrusted source. A crash in a PyTorch kernel, an endless computation or
excessive memory use ends this process, and the command reports it in one sentence.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any, Final

import msgspec

from esper.commands.output import EXIT_CODE_FAULT
from esper.leyline.errors import EsperError
from esper.simic.command_progress import CommandProgress, NoProgress

#: Maximum length of an answer in bytes.
_LONGEST: Final = 256 << 20
#: Memory limit of a replay in bytes, in addition to PyTorch itself.
_BYTES: Final = 8 << 30


class ReplayProcessError(EsperError):
    """A replay ended without a report; the message is one sentence."""


class Request(msgspec.Struct, frozen=True):
    """The incident to repeat, and the form of the report.

    Attributes:
        run_dir, run, number, update: see `esper.services.incident_reports.replay_incident`.
        as_json: whether the report is JSON.
        with_page: whether to create an HTML page.
        width: width of the report in columns.
        is_terminal: whether the report may contain colours.
    """

    run_dir: str
    run: str | None
    number: int | None
    update: int | None
    as_json: bool
    with_page: bool
    width: int
    is_terminal: bool


class Answer(msgspec.Struct, frozen=True):
    """A line of output from the process: progress, an error, or the report.

    Attributes:
        work, done: current work, and the completed fraction of all work.
        error: an error message of one sentence; empty if there is none.
        verdict: the replay's verdict; empty before its end.
        report: the report as text or JSON.
        page: the report as HTML; empty if not requested.
    """

    work: str = ""
    done: float = 0.0
    error: str = ""
    verdict: str = ""
    report: str = ""
    page: str = ""


def replay_in_process(
    request: Request, progress: CommandProgress | NoProgress, seconds: float
) -> Answer | None:
    """Repeat an incident in a child process.

    Args:
        request: the request.
        progress: shows the progress.
        seconds: time limit, after which the process is killed.

    Returns:
        The answer with the verdict; None after an internal error, whose traceback was printed.

    Raises:
        ReplayProcessError: the incident cannot be repeated, or the process crashed or took too
            long.
    """
    # Without -P, modules of the working directory would come before the installed ones.
    command = [sys.executable, "-P", "-m", __name__]
    late = threading.Event()
    answer = Answer()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.daemon = True
        timer.start()
        is_over = False
        try:
            process.stdin.write(msgspec.json.encode(request) + b"\n")
            process.stdin.flush()  # kept open: its end signals the command's end
            with progress:
                while line := process.stdout.readline(_LONGEST):
                    answer = msgspec.json.decode(line, type=Answer)
                    if answer.error or answer.verdict:
                        break
                    progress.report(answer.work, answer.done)
                else:
                    is_over = True
                    process.wait()  # for its exit code
        except (BrokenPipeError, msgspec.DecodeError):
            process.wait()
            is_over = True
        finally:
            if not is_over:
                process.kill()
            timer.cancel()
            with suppress(BrokenPipeError):
                process.stdin.close()
    if answer.verdict:
        return answer
    if not answer.error and process.returncode == EXIT_CODE_FAULT:
        return None
    raise ReplayProcessError(answer.error or _end_of(process.returncode, late.is_set(), seconds))


def _end_of(code: int, is_late: bool, seconds: float) -> str:
    if is_late:
        return f"the replay was stopped after {seconds:g} s; increase --timeout"
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
    return f"the capsule cannot be replayed: the replay process crashed ({how})"


def main() -> int:
    """Repeat the incident in the request on standard input; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the command, which ends this
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    # Keep the output of libraries apart from the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()

    try:
        _limit_memory()
        send(_replayed(request, _Progress(send)))
    except EsperError as error:
        send(Answer(error=str(error)))
    except Exception as error:  # noqa: BLE001 - an internal error is shown with its traceback
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            traceback.print_exc()
            return EXIT_CODE_FAULT
        send(Answer(error="the capsule cannot be replayed: it takes too much memory"))
    return 0


class _Progress:
    """Sends progress to the command."""

    def __init__(self, send: Any) -> None:
        self._send = send

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def report(self, what: str, done: float) -> None:
        self._send(Answer(work=what, done=done))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(EXIT_CODE_FAULT)


def _limit_memory() -> None:
    """Limit the address space of this process, if the system supports it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    import psutil
    import torch  # noqa: F401 - its libraries take address space, which does not count

    limit = psutil.Process().memory_info().vms + _BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _replayed(request: Request, progress: Any) -> Answer:
    from esper.karn.text.plain_console import PlainConsole
    from esper.leyline.text.json_text import json_text
    from esper.services.incident_reports import replay_incident
    from esper.simic.replay import replay_report
    from esper.simic.replay.replay_page import replay_page

    replayed = replay_incident(
        Path(request.run_dir), request.run, request.number, update=request.update, progress=progress
    )
    replay = replayed.replay
    about = (replayed.run, replayed.number, replayed.minibatches_per_epoch)
    page = replay_page(replay, *about) if request.with_page else ""
    if request.as_json:
        report = f"{json_text(replay_report.replay_as_json(replay, *about))}\n"
    else:
        text = StringIO()
        console = PlainConsole(
            file=text, width=request.width, force_terminal=request.is_terminal or None
        )
        console.print(
            replay_report.replay_text(replay, *about), markup=False, highlight=False, crop=False
        )
        report = text.getvalue()
    return Answer(verdict=replay.verdict, report=report, page=page)


if __name__ == "__main__":
    sys.exit(main())

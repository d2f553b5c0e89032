"""Outputs that fail: nothing is raised, and the failure and the recovery are reported once each."""

import errno
import io
import os
from pathlib import Path

import pytest
from faults import Faults, injected

from esper.simic.training.process.outputs import GuardedStream, LogFile, OutputTroubles


class Failing(io.StringIO):
    """A stream that can be made to fail."""

    error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), ValueError("I/O operation on closed file")],
)
def test_a_failure_and_its_end_are_reported_once(error: Exception) -> None:
    lines: list[str] = []
    stream = Failing()
    guarded = GuardedStream(lambda: stream, "console.log", lines.append)
    for failing in (False, True, True, False, False):
        stream.error = error if failing else None
        print("a line", file=guarded, end="", flush=True)
    assert stream.getvalue() == "a line" * 3
    first, second = lines
    assert first.startswith("console.log cannot be written: ")
    assert first.endswith("; training continues")
    assert second == "console.log can be written again; about 2 lines were late or lost"


def test_a_closed_pipe_is_not_reported() -> None:
    lines: list[str] = []
    stream = Failing()
    stream.error = BrokenPipeError()
    GuardedStream(lambda: stream, "it", lines.append).write("x")
    GuardedStream(lambda: None, "it").flush()
    assert lines == []


def test_unencodable_characters_are_written_as_escapes(tmp_path: Path) -> None:
    with open(tmp_path / "ascii", "w", encoding="ascii") as file:
        GuardedStream(lambda: file, "it").write("é\n")
    assert (tmp_path / "ascii").read_text() == "\\xe9\n"


def test_two_outputs_that_fail_do_not_report_each_other_for_ever() -> None:
    troubles = OutputTroubles()
    one, other = Failing(), Failing()
    one.error = other.error = OSError(errno.EIO, "Input/output error")
    seen: list[str] = []
    for stream in (one, other):
        guarded = GuardedStream(lambda stream=stream: stream, "it", troubles)
        troubles.add(guarded.write)
    troubles.add(seen.append)
    guarded.write("x")
    assert seen == ["it cannot be written: Input/output error; training continues"]


def test_a_failed_write_never_joins_two_lines_of_a_log_file(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    log = LogFile(path)
    guarded = GuardedStream(lambda: log, "console.log")
    with injected(Faults(tmp_path, 1, error=errno.ENOSPC)):
        second = LogFile(path) if False else log
        guarded.write("lost?\n")
    guarded.write("second\n")
    log.close()
    assert second is log
    assert path.read_text().splitlines()[-1] == "second"


def test_a_log_file_on_a_full_disk_loses_a_line_and_not_the_next() -> None:
    log = LogFile(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        log.write("x\n")
    log.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.write("x\n")
    assert not log.isatty()
    assert os.path.exists("/dev/full")

"""Sanctum in a separate process: what it loads, and what it does to a run and a terminal."""

import os
import re
import signal
import subprocess
import sys
import time

import pexpect
import pyte
import pytest

from esper.karn.sanctum.cockpit.observer import RunObserver
from esper.karn.store.liveness import StatusKind
from esper.karn.store.run_store import STORE_NAME, RunWriter, create_run

COLUMNS, LINES = 80, 24
PIECE = 256  # characters that are drawn between two readings of the screen
PROGRAM = """
import sys
from pathlib import Path
from esper.karn.sanctum.cockpit.opening import run_sanctum
directory = Path(sys.argv[1]) if sys.argv[1] else None
print("left with", run_sanctum(directory, Path(sys.argv[2])))
"""


def test_importing_the_app_loads_nothing_of_training():
    code = (
        "import esper.karn.sanctum.cockpit.opening, esper.karn.sanctum.cockpit.capture, sys;"
        "print(sorted({'torch', 'numpy', 'scipy', 'gymnasium'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "[]"


def test_printing_a_frame_does_without_textual():
    code = "import esper.karn.sanctum.cockpit.capture, sys;print('textual.app' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.strip() == "False"


class Terminal:
    """Sanctum on a pseudo-terminal, and what is on its screen."""

    def __init__(self, *arguments, **environment):
        self.received = ""
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.Stream(self.screen)
        self._unread = ""  # received, and not yet on the screen
        self.process = pexpect.spawn(
            sys.executable,
            ["-c", PROGRAM, *map(str, arguments)],
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            env={
                "TERM": "xterm-256color",
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "XDG_CONFIG_HOME": "/nonexistent",  # no settings file: the defaults apply
                **environment,
            },
            timeout=30,
        )

    def close_ending(self):
        """Close the dialog that opens over a run that has ended, and covers its figures."""
        self.wait_for("How it ended")
        self.process.send("\x1b")
        self.wait_until(lambda shown: "How it ended" not in shown)

    def wait_for(self, text):
        """Read until a text was on the screen, where a dialog may cover it a moment later."""
        self.wait_until(lambda shown: text in shown)

    def wait_until(self, is_shown):
        """Read until what is on the screen is as expected."""
        deadline = time.monotonic() + 30
        while not is_shown("\n".join(self.screen.display)):
            assert time.monotonic() < deadline, "\n".join(self.screen.display)
            if not self._unread:
                self._unread = self.process.read_nonblocking(65_536, timeout=30)
                self.received += self._unread
            drawn, self._unread = self._unread[:PIECE], self._unread[PIECE:]
            self._stream.feed(drawn)


@pytest.fixture
def open_sanctum():
    opened = []

    def open_it(*arguments, **environment):
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    yield open_it
    for terminal in opened:
        terminal.process.close(force=True)


def test_it_shows_a_finished_run_on_a_terminal_and_leaves_it_as_it_was(finished_run, open_sanctum):
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    content = (finished_run / STORE_NAME).read_bytes()
    terminal = open_sanctum(finished_run, finished_run.parent)
    terminal.close_ending()
    terminal.wait_for("FINISHED")
    terminal.wait_for("first: op Inf in logits, update 2")

    def op_is_lit(shown):
        names = [row for row in shown.split("\n") if "Blueprint" in row]
        lights = [row for row in shown.split("\n") if row.strip().startswith("Inf")]
        return bool(names and lights) and lights[0][names[0].index(" Op") + 1] == "●"

    terminal.wait_until(op_is_lit)
    terminal.process.send("q")
    terminal.process.expect("left with quit")
    terminal.process.expect(pexpect.EOF)
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before
    assert (finished_run / STORE_NAME).read_bytes() == content


def test_it_waits_for_the_first_run_and_then_shows_it(tmp_path, payloads, open_sanctum):
    run_dir = tmp_path / "runs"
    terminal = open_sanctum("", run_dir)
    terminal.wait_for("● WAITING")
    directory = create_run(run_dir, "late")
    with RunWriter(directory) as writer:
        writer.emit(payloads.start(name="late"))
        writer.emit(payloads.broken_update(1, "slot", "nan"), durable=True)
        terminal.wait_for("● CRITICAL")
        terminal.wait_for("first: slot NaN")
    terminal.process.send("q")
    terminal.process.expect("left with quit")


def test_with_no_color_no_colour_is_sent(finished_run, open_sanctum):
    terminal = open_sanctum(finished_run, finished_run.parent, NO_COLOR="1")
    terminal.close_ending()
    terminal.wait_for("first: op Inf in logits, update 2")
    sent = {
        int(number)
        for numbers in re.findall(r"\x1b\[([\d;]*)m", terminal.received)
        for number in numbers.split(";")
        if number
    }
    assert {1, 2, 7} <= sent  # bold, dim and reverse replace colours
    assert not [number for number in sent if 30 <= number <= 49 or number >= 90]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_the_terminal_as_it_was(finished_run, open_sanctum, number):
    terminal = open_sanctum(finished_run, finished_run.parent)
    terminal.close_ending()
    terminal.wait_for("first: op Inf in logits, update 2")
    terminal.process.kill(number)
    terminal.process.expect(pexpect.EOF)
    left = terminal.process.before
    # The other screen, the mouse in both of its modes, pasting, and the hidden cursor.
    for mode in ("?1049l", "?1000l", "?1003l", "?2004l", "?25h"):
        assert f"\x1b[{mode}" in left
    assert "Traceback" not in left
    terminal.process.close()
    assert terminal.process.exitstatus == 128 + number


@pytest.mark.parametrize("goes_by_itself", [True, False])
def test_it_ends_where_its_terminal_goes_away(finished_run, open_sanctum, goes_by_itself):
    for _ in range(3):
        terminal = open_sanctum(finished_run, finished_run.parent)
        terminal.close_ending()
        terminal.wait_for("first: op Inf in logits, update 2")
        terminal.process.send("w\x1b")
        # The thread that writes dies with the terminal; what is drawn then fills its queue.
        pseudo_terminal = terminal.process.ptyproc
        pseudo_terminal.fileobj.close()
        pseudo_terminal.closed = True
        if not goes_by_itself:
            terminal.process.kill(signal.SIGTERM)
        code = _exit_code(terminal.process.pid, seconds=30)
        pseudo_terminal.terminated = True
        # Python exits with 120 if the last output could not be written.
        assert code in (128 + signal.SIGHUP, 128 + signal.SIGTERM, 120)


def _exit_code(pid, seconds):
    """Wait for a process to end, and return its exit code."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("it did not end")


#: The writing thread is gone, and it reports when a caller is about to wait for it.
STUCK = """
import os
from textual.drivers._writer_thread import WriterThread

def write(self, text):
    if self._queue.full():
        os.write(1, b"waits for ever")
    self._queue.put(text)

WriterThread.run = lambda self: None
WriterThread.write = write
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_also_where_it_waits_to_write(finished_run, number):
    process = pexpect.spawn(
        sys.executable,
        ["-c", STUCK + PROGRAM, str(finished_run), str(finished_run.parent)],
        dimensions=(LINES, COLUMNS),
        env={"TERM": "xterm-256color", "PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": "/nonexistent"},
        timeout=30,
    )
    try:
        process.expect("waits for ever")
        process.kill(number)
        process.expect(pexpect.EOF)
    finally:
        process.close(force=True)
    assert process.exitstatus == 128 + number


def test_a_watch_finds_the_first_run_of_a_folder_that_is_not_there_yet(tmp_path, payloads):
    run_dir = tmp_path / "deep" / "runs"
    observer = RunObserver(None, run_dir)
    view = observer(0.0)
    assert view.status.kind is StatusKind.WAITING
    assert str(run_dir) in view.status.sentence
    with RunWriter(create_run(run_dir, "first")) as writer:
        writer.emit(payloads.start(name="first"), durable=True)
    assert observer(time.time()).snapshot.run.name == "first"


@pytest.mark.parametrize("kind", ["xterm", "vt100", "linux", "xterm-mono", "unheard-of"])
def test_it_opens_on_any_kind_of_terminal_and_leaves_by_its_key(finished_run, open_sanctum, kind):
    terminal = open_sanctum(finished_run, finished_run.parent, TERM=kind, LANG="C")
    terminal.wait_for("● CRITICAL")
    terminal.close_ending()
    terminal.wait_for("first: op Inf in logits, update 2")
    terminal.process.send("q")
    terminal.process.expect("left with quit")
    assert "Traceback" not in terminal.received


def test_a_terminal_that_takes_ascii_only_gets_ascii(finished_run, open_sanctum):
    terminal = open_sanctum(finished_run, finished_run.parent, PYTHONIOENCODING="ascii")
    terminal.wait_for("* CRITICAL")
    terminal.close_ending()
    terminal.wait_for("first: op Inf in logits, update 2")
    assert "\\u" not in "\n".join(terminal.screen.display)
    assert terminal.received.isascii()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (200, 1), (2, 2)])
def test_a_terminal_of_one_column_does_not_fail(finished_run, open_sanctum, size):
    columns, lines = size
    terminal = open_sanctum(finished_run, finished_run.parent)
    terminal.close_ending()
    terminal.wait_for("first: op Inf in logits, update 2")
    terminal.screen.resize(lines, columns)
    terminal.process.setwinsize(lines, columns)
    terminal.wait_for("●")
    terminal.screen.resize(LINES, COLUMNS)
    terminal.process.setwinsize(LINES, COLUMNS)
    terminal.wait_for("first: op Inf in logits, update 2")
    terminal.process.send("q")
    terminal.process.expect("left with quit")
    assert "Traceback" not in terminal.received

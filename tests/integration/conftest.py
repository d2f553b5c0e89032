"""Whole programs: started as a user would, in a terminal that can be read."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pexpect
import psutil
import pyte
import pytest

COLUMNS, ROWS = 120, 40
#: Settings that make a real run take a second: two hosts, four steps.
SMALL = ("--envs", "2", "--steps", "4")


class Terminal:
    """A program in a pseudo-terminal, and the screen that it draws there."""

    def __init__(self, arguments: Sequence[str], columns: int, rows: int) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.program = pexpect.spawn(
            sys.executable, ["-m", "esper", *arguments], dimensions=(rows, columns), timeout=60
        )

    @property
    def lines(self) -> list[str]:
        """What the screen shows now."""
        return list(self._screen.display)

    def press(self, keys: str) -> None:
        """Type."""
        self.program.send(keys)

    def wait_for(self, what: Callable[[list[str]], bool], seconds: float = 60) -> list[str]:
        """Read until the screen shows it; fail with the screen if it never does."""
        end = time.monotonic() + seconds
        while not what(self.lines):
            if time.monotonic() > end:
                raise AssertionError("never shown:\n" + "\n".join(self.lines))
            try:
                self._stream.feed(self.program.read_nonblocking(65536, timeout=0.2))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF as error:
                if what(self.lines):
                    break
                shown = "\n".join(self.lines)
                raise AssertionError(f"the program ended; its screen:\n{shown}") from error
        return self.lines

    def wait_for_exit(self, seconds: float = 60) -> int:
        """Read to the end; return the exit code."""
        self.program.timeout = seconds
        self._stream.feed(self.program.read())
        self.program.wait()
        return int(self.program.exitstatus)


def lit_heads(lines: Sequence[str], row: str) -> set[str] | None:
    """Read the lights of a row ("Inf" or "NaN") off a screen: the shown names of the lit heads.

    None if the screen does not show the row.
    """
    names = ("Slot", "Blueprint", "Style", "Tempo", "αTarget", "αSpeed", "αCurve", "Op")
    headers = [number for number, line in enumerate(lines) if all(name in line for name in names)]
    if not headers:
        return None
    header = lines[headers[0]]
    for line in lines[headers[0] + 1 :]:
        if line.lstrip(" │┃").startswith(row + " "):
            circles = {name: line[header.index(name)] for name in names}
            assert set(circles.values()) <= {"●", "◉", "○"}, f"{header}\n{line}"
            return {name for name, circle in circles.items() if circle in "●◉"}  # ◉: by a drill
    return None


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Return a function that starts `esper` with some arguments in a terminal."""
    opened = []

    def start(*arguments: str, columns: int = COLUMNS, rows: int = ROWS) -> Terminal:
        terminal = Terminal(arguments, columns, rows)
        opened.append(terminal)
        return terminal

    yield start
    for terminal in opened:
        terminal.program.close(force=True)
    # What was detached from would train on for ever after a test that failed.
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or ()):
            process.kill()


@pytest.fixture
def esper(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `esper` in a new folder, without a terminal, until it ends."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "esper", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def small() -> tuple[str, ...]:
    """Return the options of a run that takes a second."""
    return SMALL


@pytest.fixture
def read_lights() -> Callable[[Sequence[str], str], set[str] | None]:
    """Return `lit_heads`."""
    return lit_heads

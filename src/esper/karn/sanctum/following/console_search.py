"""Searches the whole console output of a run for a text, backwards from its end."""

from pathlib import Path
from typing import IO, Final

from esper.karn.sanctum.following.searching import LINES_FOUND, SearchResult
from esper.karn.store.run_directory import CONSOLE_NAME
from esper.karn.store.run_files.console_tail import plain
from esper.leyline.files.regular_files import open_regular

#: Bytes of the file that one step reads; a longer line counts as several.
BYTES_PER_STEP: Final = 1 << 18


class ConsoleSearch:
    """A case-insensitive search through a run's `console.log`.

    Args:
        directory: the run's directory; the file need not exist.
        text: the text to find in a line.
    """

    def __init__(self, directory: Path, text: str) -> None:
        self._path = directory / CONSOLE_NAME
        self._text = text.lower()
        self._start_over()

    def step(self) -> SearchResult[str]:
        """Search what was added to the file, and then a bounded part further back."""
        try:
            with open_regular(self._path) as file:
                grows = self._search_on(file)
                if not grows:
                    self._search_back(file)
        except FileNotFoundError:
            self._start_over()
            return SearchResult(is_over=True, is_whole=True)
        except OSError as error:
            return SearchResult(self._found, is_over=True, error=error.strerror or str(error))
        lines = (*self._found, *self._taken(self._begun))[-LINES_FOUND:]
        is_whole = self._first == 0
        is_over = not grows and (is_whole or len(self._found) == LINES_FOUND)
        reached = f"the last {(self._last - self._first) / 1e6:.1f} MB"
        return SearchResult(lines, is_over, is_whole, reached)

    def _start_over(self) -> None:
        self._found: tuple[str, ...] = ()
        self._begun = b""  # an unfinished line at the end of the file
        self._first = 0  # start of the searched bytes, which begin and end with whole lines
        self._last = -1  # end of the searched bytes; -1 before the first step

    def _search_on(self, file: IO[bytes]) -> bool:
        """Search after the searched bytes; return whether there are more."""
        size = file.seek(0, 2)
        if size < self._last:
            self._start_over()  # another file replaced it
        if self._last < 0:
            file.seek(max(0, size - BYTES_PER_STEP))
            data = file.read(BYTES_PER_STEP)
            self._first = self._last = file.tell() - len(data) + data.rfind(b"\n") + 1
        file.seek(self._last)
        data = file.read(BYTES_PER_STEP)
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) == BYTES_PER_STEP:
            whole = len(data)
        self._begun = data[whole:]
        self._last += whole
        self._found = (*self._found, *self._taken(data[:whole]))[-LINES_FOUND:]
        return len(data) == BYTES_PER_STEP

    def _search_back(self, file: IO[bytes]) -> None:
        if len(self._found) == LINES_FOUND:
            return
        start = max(0, self._first - BYTES_PER_STEP)
        file.seek(start)
        data = file.read(self._first - start)
        # The bytes before the first line end belong to a line that begins further back.
        begins = data.find(b"\n") + 1 if start else 0
        self._first = start + (begins if begins < len(data) else 0)
        self._found = (*self._taken(data[self._first - start :]), *self._found)[-LINES_FOUND:]

    def _taken(self, data: bytes) -> list[str]:
        if not data:
            return []
        lines = map(plain, data.decode("utf-8", "replace").removesuffix("\n").split("\n"))
        return [line for line in lines if self._text in line.lower()]

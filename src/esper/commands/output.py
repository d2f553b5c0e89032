"""What several commands write: warnings and progress on standard error, and files."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.commands.options import OptionError
from esper.leyline.files.durable_files import write_output
from esper.leyline.text.plain_text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from esper.simic.command_progress import CommandProgress

#: Exit code of a report that ended with a bug in the program.
EXIT_CODE_FAULT: Final = 70
_UNWRAPPED: Final = 100_000  # columns: wider than any line


def print_warning(sentence: str) -> None:
    """Print a sentence on standard error."""
    print(printable(sentence), file=sys.stderr)


def print_report(
    report: "RenderableType", console: "Console | None" = None, *, wraps_in_pipes: bool = True
) -> None:
    """Print a report on standard output, or on another console.

    Args:
        report: an object that Rich can render. A string, such as JSON, is printed unchanged.
        console: where to print; standard output by default.
        wraps_in_pipes: whether lines are wrapped to 80 columns where standard output is no
            terminal and COLUMNS is not set.
    """
    if console is None:
        from esper.karn.text.plain_console import PlainConsole

        console = PlainConsole()
        if not (wraps_in_pipes or console.is_terminal or os.environ.get("COLUMNS")):
            console.width = _UNWRAPPED
    is_text = isinstance(report, str)
    # Lines that are not wrapped go beyond the console's width.
    console.print(report, markup=False, highlight=False, crop=False, soft_wrap=is_text)


def progress_on_stderr() -> "CommandProgress":
    """Return progress on standard error: a bar on a terminal, plain lines elsewhere."""
    from rich.console import Console

    from esper.simic.command_progress import CommandProgress

    return CommandProgress(Console(stderr=True, highlight=False))


def try_to_write(path: Path, text: str) -> OptionError | None:
    """Write a file; return an error instead of raising it, so that the report is printed first."""
    try:
        write_output(path, text)
    except OSError as error:
        return OptionError(f"cannot write {path}: {error.strerror}")
    return None

"""What several commands write: warnings and progress on standard error, and files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esper.commands.options import OptionError
from esper.leyline.files.durable_files import write_output
from esper.leyline.text.plain_text import printable

if TYPE_CHECKING:
    from esper.simic.command_progress import CommandProgress


def print_warning(sentence: str) -> None:
    """Print a sentence on standard error."""
    print(printable(sentence), file=sys.stderr)


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

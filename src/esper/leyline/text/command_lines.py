"""Command lines, ready to paste: with the same launcher as this process, quoted for the shell."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

#: The name on the Python Package Index, where `esper` is another project.
DISTRIBUTION = "esper-rl"
PROGRAMS = ("esper", "sanctum")
#: Set by `uv run` for its child process.
_UV_RUN = "UV_RUN_RECURSION_DEPTH"


def command_line(program: str, *arguments: object) -> str:
    """Return a command that runs `esper` or `sanctum` with the launcher of this process.

    Args:
        program: one of `PROGRAMS`.
        arguments: the arguments, quoted as needed.
    """
    return shlex.join([*_start_of(program), *map(str, arguments)])


def torchrun_line(options: Sequence[object], *arguments: object) -> str:
    """Return a command that runs `esper` in several processes with torchrun.

    Args:
        options: of torchrun.
        arguments: of `esper`, quoted as needed.
    """
    words = [*_start_of("torchrun"), *options, "-m", "esper", *arguments]
    return shlex.join(map(str, words))


def install_command(extra: str) -> str:
    """Return a command that installs an optional extra of Esper."""
    if _UV_RUN in os.environ:
        return f"uv sync --extra {extra}"
    root = Path(__file__).parents[4]  # of the source tree, if Esper runs from one
    source = str(root) if (root / "pyproject.toml").is_file() else DISTRIBUTION
    return shlex.join(["pip", "install", f"{source}[{extra}]"])


def _start_of(program: str) -> list[str]:
    """Return the words that start a program: with `uv run`, by its name, or by its path."""
    if _UV_RUN in os.environ:
        return [*(_typed_before_program() or ("uv", "run")), program]
    if shutil.which(program) is None:
        neighbour = Path(sys.executable).with_name(program)
        if neighbour.exists():
            return [str(neighbour)]
    return [program]


def _typed_before_program() -> list[str]:
    """Return the words of `uv run` with its options, such as `uv run --no-sync`.

    They come from the parent process; empty if it is not `uv` or cannot be read.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text("utf-8").split("\0")
    except (OSError, UnicodeDecodeError):
        return []
    places = [place for place, word in enumerate(words) if Path(word).name in PROGRAMS]
    if Path(words[0]).name != "uv" or not places:
        return []
    return ["uv", *words[1 : places[0]]]

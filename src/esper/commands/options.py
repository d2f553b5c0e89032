"""What the options of several commands share: the parser, the run, its folder, whole numbers."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from esper.karn.run_directory import default_run_dir


class OptionError(ValueError):
    """Options that do not go together; one clear sentence."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        message = message.replace(", '_train'", "")  # started by the program, not by people
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_verb(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    """Add a verb to a parser's; `verb` is given the options and returns the exit code."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=help_text, description=help_text.capitalize() + ".", allow_abbrev=False
    )
    parser.set_defaults(verb=verb)
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN, the run that a command is about."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="an id, its unique beginning, a name or a path; default the newest",
    )


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """Add --run-dir, the folder in which runs are found and made."""
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=default_run_dir(),
        metavar="DIR",
        help="the folder that holds runs (default: ESPER_RUN_DIR, or runs)",
    )


def whole_number(text: str) -> int:
    """Return what an option says; argparse names the option if it is no whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None

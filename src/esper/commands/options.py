"""What the options of several commands share: the parser, the run, its folder, whole numbers."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from esper.karn.store.run_directory import default_run_dir
from esper.leyline.errors import EsperError
from esper.leyline.suggestions import did_you_mean, option_meant


class OptionError(EsperError, ValueError):
    """Options that do not go together; one clear sentence."""


class Parser(argparse.ArgumentParser):
    """Refuses bad input in one sentence that names what was probably meant."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; words that no option takes are refused by the verb's own parser."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: Parser = getattr(options, "parser", self)
            parser.refuse(unknown[0])
        return options

    def refuse(self, word: str) -> NoReturn:
        """End the program because of a word that no option takes."""
        if not word.startswith("-"):
            self.error(f"unexpected argument {word!r}")
        option = word.partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        self.error(f"unknown option {option}{option_meant(option, known)}")

    def error(self, message: str) -> NoReturn:
        """End the program with one sentence and exit code 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(name) for name in action.choices if not str(name).startswith("_")]
        hint = did_you_mean(str(value), known)
        if isinstance(action, argparse._SubParsersAction):
            if value == "sanctum":
                hint = "; sanctum is a program of its own, started without esper"
            hint = hint or f"; the commands are {', '.join(known)}"
            raise argparse.ArgumentError(None, f"there is no command {value!r}{hint}")
        raise argparse.ArgumentError(
            action, f"must be one of {', '.join(known)}, not {value!r}{hint}"
        )


def add_verb(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    """Add a verb to a parser's; `verb` is given the options and returns the exit code."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        allow_abbrev=False,
    )
    parser.set_defaults(verb=verb, parser=parser)
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN, the run that a command is about."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run: an id, a unique prefix, a name or a path (default: the newest)",
    )


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """Add --run-dir, the folder in which runs are found and made."""
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=default_run_dir(),
        metavar="DIR",
        help="folder that contains the runs (default: ESPER_RUN_DIR, or runs)",
    )


def whole_number(text: str) -> int:
    """Return what an option says; argparse names the option if it is no whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None

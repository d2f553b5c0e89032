"""The parser, and options that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from esper.karn.store.run_directory import default_run_dir
from esper.leyline.errors import EsperError
from esper.leyline.text.suggestions import did_you_mean, option_meant


class OptionError(EsperError, ValueError):
    """Options exclude each other or cannot be used; one clear sentence."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence with a suggestion."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; the parser of the verb reports unknown arguments."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: Parser = getattr(options, "parser", self)
            parser.refuse(unknown[0])
        return options

    def refuse(self, word: str) -> NoReturn:
        """End the program because of an unknown argument."""
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
                hint = "; sanctum is a separate program: run `sanctum` instead of `esper sanctum`"
            hint = hint or f"; the commands are {', '.join(known)}"
            raise argparse.ArgumentError(None, f"there is no command {value!r}{hint}")
        raise argparse.ArgumentError(
            action, f"must be one of {', '.join(known)}, not {value!r}{hint}"
        )


def add_verb(
    verbs: Any, name: str, verb: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    """Add a verb to the verbs of a parser.

    Args:
        verbs: the verbs.
        name: name of the verb.
        verb: runs it, and returns the exit code.
        help_text: its description, without a capital and a full stop.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.",
        allow_abbrev=False,
    )
    parser.set_defaults(verb=verb, parser=parser)
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN, the run to report on."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run: an id, a unique prefix, a name or a path (default: the newest)",
    )


#: What names a policy.
POLICY_HELP = (
    "a run (an id, a unique prefix, a name or a path), the path of a checkpoint, or shipped: the "
    "policy that comes with Esper"
)


def add_rng_seed(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --seed, a random seed.

    Args:
        parser: the parser of the verb.
        what: what it is the random seed of, for the help.
    """
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=0,
        metavar="N",
        help=f"random seed of {what} (default: %(default)s)",
    )


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """Add --run-dir, the folder that contains the runs."""
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=default_run_dir(),
        metavar="DIR",
        help="folder that contains the runs (default: ESPER_RUN_DIR, or runs)",
    )


def whole_number(text: str) -> int:
    """Return the whole number in an option; argparse adds the option to the error."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None

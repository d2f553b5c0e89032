"""Shared by benchmarks: the option for the number of rounds, and the console for tables."""

import argparse
import sys

from rich.console import Console

#: Width of a table that goes into a file or a pipe.
PIPED_WIDTH = 120


def rounds_of(text: str) -> int:
    """Return the number of rounds in an option; an interval needs at least two."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 2, for an interval, not {text}"
        )
    return int(text)


def make_console() -> Console:
    """Return a console as wide as its terminal or, without one, as the widest table."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)

"""`esper skill`: print instructions for coding agents."""

import argparse
from importlib.resources import files
from typing import Any

from esper.commands.options import add_verb


def add_skill(verbs: Any) -> None:
    """Add `skill` to the verbs of `esper`."""
    add_verb(
        verbs,
        "skill",
        _skill,
        "print SKILL.md: instructions for coding agents on finding and fixing the cause of a NaN",
    )


def _skill(_options: argparse.Namespace) -> int:
    print(files("esper").joinpath("SKILL.md").read_text(encoding="utf-8"), end="")
    return 0

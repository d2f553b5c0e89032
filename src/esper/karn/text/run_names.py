"""Run names without the creation time that run ids begin with."""

import re
from collections.abc import Sequence
from typing import Final

_DATE: Final = re.compile(r"^\d{8}-(?=\d{6})")
_DATE_AND_TIME: Final = re.compile(r"^\d{8}-\d{6}-(?=.)")


def without_creation_time(name: str) -> str:
    """Return "ppo-a" for "20251122-194012-ppo-a"; any other name unchanged."""
    return _DATE_AND_TIME.sub("", name)


def shortened(names: Sequence[str]) -> list[str]:
    """Return names without date and time, or without the date, where they stay distinct."""
    for pattern in (_DATE_AND_TIME, _DATE):
        shorter = [pattern.sub("", name) for name in names]
        if len(set(shorter)) == len(shorter):
            return shorter
    return list(names)

"""Suggestions for misspelled words."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the name most similar to a word; empty if there is none."""
    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_lower, 1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def option_meant(option: str, known: Iterable[str]) -> str:
    """Return the same for an option, without its dashes; `--lr` suggests `--learning-rate`."""
    names = {name.lstrip("-"): name for name in known}
    word = option.lstrip("-")
    for name, meant in names.items():
        if "-" in name and "".join(part[:1] for part in name.split("-")) == word.lower():
            return f"; did you mean {meant}?"
    near = get_close_matches(word.lower(), names, 1)
    return f"; did you mean {names[near[0]]}?" if near else ""

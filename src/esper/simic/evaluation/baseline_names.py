"""The names of the baselines, in a module that does not import torch."""

from esper.leyline.errors import EsperError
from esper.leyline.text.suggestions import did_you_mean

BASELINES = ("none", "random", "heuristic", "static", "same-architecture")
#: Baselines that run with another one, by their own names.
_COMES_WITH = {"same-cost": "same-architecture"}


class UnknownBaselineError(EsperError, ValueError):
    """There is no baseline of this name."""


def parse_baselines(text: str) -> tuple[str, ...]:
    """Return the baselines in a comma-separated list, each once, in the order given.

    Raises:
        UnknownBaselineError: one of them is unknown, or none is named.
    """
    given = (name.strip() for name in text.split(",") if name.strip())
    names = tuple(dict.fromkeys(_COMES_WITH.get(name, name) for name in given))
    unknown = [name for name in names if name not in BASELINES]
    if unknown or not names:
        known = (*BASELINES, *_COMES_WITH)
        what = f"there is no baseline {unknown[0]!r}" if unknown else "no baseline is named"
        hint = did_you_mean(unknown[0], known) if unknown else ""
        takes = f"(--against takes a comma-separated list of {', '.join(known)})"
        raise UnknownBaselineError(f"{what} {takes}{hint}")
    return names

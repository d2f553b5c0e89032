"""The names of the baselines; apart from them, so that asking for help loads no torch."""

BASELINES = ("none", "random", "heuristic", "static", "same-architecture")


class UnknownBaselineError(ValueError):
    """There is no baseline of this name."""


def parse_baselines(text: str) -> tuple[str, ...]:
    """Return the baselines named in a list with commas, each once, in the order given.

    Raises:
        UnknownBaselineError: one of them is unknown, or none is named.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in BASELINES]
    if unknown or not names:
        what = f"there is no baseline {unknown[0]!r}" if unknown else "no baseline is named"
        raise UnknownBaselineError(
            f"{what}: --against takes any of {', '.join(BASELINES)}, with commas between"
        )
    return names

"""The latches that make the exit code of a health report 1: what `--fail-on` takes."""

from typing import Final

from esper.leyline.errors import EsperError

LATCH_KINDS: Final = ("inf", "nan")


class FailOnError(EsperError, ValueError):
    """What a run is to fail on names something other than `inf` and `nan`."""


def latch_kinds(text: str) -> list[str]:
    """Return the kinds of latches that `--fail-on` names.

    Raises:
        FailOnError: it names something else.
    """
    kinds = [kind.strip().lower() for kind in text.split(",") if kind.strip()]
    strange = [kind for kind in kinds if kind not in LATCH_KINDS]
    if strange:
        raise FailOnError(f"--fail-on must be inf, nan or inf,nan, not {strange[0]!r}")
    return kinds

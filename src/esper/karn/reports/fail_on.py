"""The value of `--fail-on`: the kinds of latches that make the exit code of `esper health` 1."""

from typing import Final

from esper.leyline.errors import EsperError

LATCH_KINDS: Final = ("inf", "nan")


class FailOnError(EsperError, ValueError):
    """A value of `--fail-on` other than `inf` and `nan`."""


def latch_kinds(text: str) -> list[str]:
    """Return the kinds of latches in a value of `--fail-on`.

    Raises:
        FailOnError: the value has something else than `inf` and `nan`.
    """
    kinds = [kind.strip().lower() for kind in text.split(",") if kind.strip()]
    unknown = [kind for kind in kinds if kind not in LATCH_KINDS]
    if unknown:
        raise FailOnError(f"--fail-on must be inf, nan or inf,nan, not {unknown[0]!r}")
    return kinds

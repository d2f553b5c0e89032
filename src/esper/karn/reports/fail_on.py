"""The value of `--fail-on`: the kinds of latches that make the exit code of `esper health` 1."""

from typing import Final

from esper.leyline.errors import EsperError

#: Kinds of latches that each head and group has.
LATCH_KINDS: Final = ("inf", "nan")
#: Kinds that `--fail-on` may name: those, and the latch of a watched run that stalled.
FAIL_KINDS: Final = (*LATCH_KINDS, "stalled")


class FailOnError(EsperError, ValueError):
    """A value of `--fail-on` other than `inf`, `nan` and `stalled`."""


def latch_kinds(text: str) -> list[str]:
    """Return the kinds of latches in a value of `--fail-on`.

    Raises:
        FailOnError: the value has something else than `inf`, `nan` and `stalled`.
    """
    kinds = [kind.strip().lower() for kind in text.split(",") if kind.strip()]
    unknown = [kind for kind in kinds if kind not in FAIL_KINDS]
    if unknown:
        raise FailOnError(
            "--fail-on must be inf, nan, stalled, or several of them with commas, "
            f"not {unknown[0]!r}"
        )
    return kinds

"""The reasons for which a training step cannot be repeated."""

from esper.leyline.errors import EsperError


class CannotRunAgainError(EsperError):
    """A loop's body cannot be run again; the message says why."""


class NoLoopError(CannotRunAgainError):
    """A frame has no source, or no loop around its current line; its caller may have one."""

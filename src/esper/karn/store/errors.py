"""Errors of reading a run's store."""

from esper.leyline.errors import EsperError


class RunStoreError(EsperError, ValueError):
    """A run's store is missing, foreign, newer than this program, or cannot be read."""


class RunStoreMissingError(RunStoreError):
    """There is no store where one was looked for."""

"""Local dates, for any time that a clock may give."""

from datetime import date


def day_of(seconds: float) -> date:
    """Return the local date of a time in seconds since the epoch; the last date if out of range."""
    try:
        return date.fromtimestamp(seconds)
    except (ValueError, OverflowError, OSError):
        return date.max

"""Local days, for clocks that may have jumped anywhere."""

from datetime import date


def day_of(seconds: float) -> date:
    """Return the local day of a moment since the epoch; the last there is for one beyond it."""
    try:
        return date.fromtimestamp(seconds)
    except (ValueError, OverflowError, OSError):
        return date.max

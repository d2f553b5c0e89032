"""The status of a run as one coloured word."""

from rich.text import Text

from esper.karn.store.liveness import RunStatus, StatusKind
from esper.karn.text.palette import Palette


def status_text(status: RunStatus, palette: Palette) -> Text:
    """Return the status in one word; for a stale run, with the seconds since its last heartbeat."""
    word = str(status.kind)
    if status.kind is StatusKind.STALE and status.seconds is not None:
        word += f" {status.seconds:.0f} s"
    style = {
        StatusKind.LIVE: palette.good,
        StatusKind.FINISHED: palette.accent,
        StatusKind.STOPPED: palette.accent,
        StatusKind.STUCK: palette.warning,
        StatusKind.STALE: palette.warning,
        StatusKind.UNREADABLE: palette.warning,
        StatusKind.HALTED: palette.critical,
        StatusKind.FAILED: palette.critical,
        StatusKind.DEAD: palette.critical,
        StatusKind.DEGRADED: palette.critical,
    }.get(status.kind, palette.muted)
    return Text(word, style=f"bold {style}")

"""The style of a figure, by the thresholds of its telemetry record."""

import math

from esper.karn.text.palette import Palette
from esper.leyline.health import Level, judge_figure
from esper.leyline.records import record_of


def finite_style(value: float, palette: Palette, style: str) -> str:
    """Return `style` for a finite value, and the style of an alert for any other."""
    return style if math.isfinite(value) else f"bold {palette.critical}"


def figure_style(path: str, value: float | None, update: int, palette: Palette) -> str:
    """Return the style of a figure.

    Args:
        path: where the figure is in the snapshot, such as `training.entropy`.
        value: None where nothing was measured yet.
        update: updates completed; a record may leave the first ones unjudged.
        palette: the colours to choose from.

    Raises:
        ValueError: the path has no telemetry record.
    """
    record = record_of(path)
    if value is None:
        return palette.faint
    if not math.isfinite(value) and not record.thresholds.nonfinite_is_legal:
        return f"bold {palette.critical}"
    if judge_figure(record, value, update=update).level >= Level.WARNING:
        return f"bold {palette.warning}"
    return palette.ink

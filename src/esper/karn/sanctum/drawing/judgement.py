"""How a figure is written, by what its telemetry record has to say of its value."""

from esper.karn.sanctum.drawing.figures import nonfinite_kind
from esper.karn.sanctum.drawing.palette import Palette
from esper.leyline.health import Level, judge_figure
from esper.leyline.records import record_of


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
    if nonfinite_kind(value) is not None and not record.thresholds.nonfinite_is_legal:
        return f"bold {palette.critical}"
    if judge_figure(record, value, update=update).level >= Level.WARNING:
        return f"bold {palette.warning}"
    return palette.ink

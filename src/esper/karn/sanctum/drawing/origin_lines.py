"""The operation in which an incident began, as labelled lines."""

from rich.text import Text

from esper.karn.sanctum.drawing.labelled_lines import labelled
from esper.karn.sanctum.schema import IncidentState
from esper.karn.text.palette import Palette
from esper.leyline.text.origin_words import (
    came_in_with,
    cause_words,
    line_words,
    loop_words,
    no_origin_words,
    operation_words,
)


def origin_lines(incident: IncidentState, width: int, palette: Palette) -> list[Text]:
    """Return the operation in which an incident began, or why it is not known.

    Empty if it was not looked for, as in a run whose incidents are replayed later.
    """
    origin = incident.origin
    if origin is None:
        why = no_origin_words(incident.no_origin).removeprefix("where it began is ")
        return labelled("began", [why], width, palette) if incident.no_origin else []
    alert = f"bold {palette.critical}"
    if before := came_in_with(origin.cause):
        lines = labelled("began", [f"it {before}"], width, palette, alert)
        lines += labelled("used by", [operation_words(origin)], width, palette)
    else:
        lines = labelled("began in", [operation_words(origin)], width, palette, alert)
        lines += labelled("cause", [cause_words(origin.cause)], width, palette)
    if origin.file:
        lines += labelled("line", [line_words(origin)], width, palette)
        lines += labelled("", [origin.code], width, palette, palette.accent)
    if loop := loop_words(origin):
        lines += labelled("your loop", [loop], width, palette)
    if origin.counters:
        lines += labelled("counters", [origin.counters], width, palette)
    if origin.module:
        lines += labelled("module", [origin.module], width, palette)
    return lines

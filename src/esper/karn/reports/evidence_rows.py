"""The columns of the table of evidence, in `esper health` and in Sanctum."""

from collections.abc import Callable
from typing import Final

from esper.karn.sanctum.schema import Evidence
from esper.karn.text.figures import place_text
from esper.leyline.text.sighting_words import KIND_WORDS

#: Headings of all columns but the first. A place is update, epoch and minibatch: "2/1/3".
EVIDENCE_HEADINGS: Final = ("seen", "updates", "minib.", "first", "last", "")


def evidence_cells(row: Evidence, head: str, count: Callable[[int | None], str]) -> tuple[str, ...]:
    """Return the cells of one row.

    Args:
        row: what was seen.
        head: name of the head or group, the first cell.
        count: returns a number as text; None is unknown.
    """
    return (
        head,
        f"{KIND_WORDS.get(row.kind, row.kind)} in {row.quantity}",
        count(row.updates),
        count(row.minibatches or None),
        place_text(row.first_update, row.first_epoch, row.first_minibatch),
        place_text(row.last_update, row.last_epoch, row.last_minibatch),
        "now" if row.is_active else "",
    )

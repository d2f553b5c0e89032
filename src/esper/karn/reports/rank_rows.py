"""The ranks of a run in reports: as lines and as plain values."""

from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from esper.karn.reports.report_lines import column_lines
from esper.karn.sanctum.fold.ranks.rank_state import RankState, lacks_of
from esper.karn.store.liveness import StatusKind
from esper.karn.text.figures import ABSENT
from esper.karn.text.palette import TERMINAL
from esper.karn.text.status_text import status_text
from esper.leyline.text.rank_words import ranks_words

#: Ranks that have a line each; of more, those that are not as the others.
_LISTED: Final = 8


def rank_lines(ranks: Sequence[RankState]) -> list[Text]:
    """Return a line for each rank, with a heading; of many, for those with trouble only.

    Args:
        ranks: of a run; empty for a run of one process.
    """
    if not ranks:
        return []
    listed = ranks if len(ranks) <= _LISTED else [one for one in ranks if _is_odd(one)][:_LISTED]
    others = [one.rank for one in ranks if one not in listed]
    rows = [[Text(cell) if isinstance(cell, str) else cell for cell in _cells(o)] for o in listed]
    lines = column_lines(rows, ("rank", "status", "update", "device", "machine", "process", ""))
    if others:
        sizes = {one.status.kind for one in ranks if one.rank in others}
        lines.append(Text(f"{ranks_words(others)}: {', '.join(sorted(sizes))}", style="dim"))
    return lines


def _cells(one: RankState) -> tuple[str | Text, ...]:
    damage = one.completeness.damaged_events
    return (
        str(one.rank),
        status_text(one.status, TERMINAL) if one.has_store else Text("no store", "yellow"),
        str(one.update) if one.has_store else ABSENT,
        one.device or ABSENT,
        one.machine or ABSENT,
        ABSENT if one.pid is None else str(one.pid),
        f"{damage} damaged events" if damage else "",
    )


def _is_odd(one: RankState) -> bool:
    is_well = one.status.kind in (StatusKind.LIVE, StatusKind.FINISHED, StatusKind.STARTING)
    return not (is_well and one.has_store and one.completeness.doubt is None)


def ranks_as_json(ranks: Sequence[RankState]) -> list[dict[str, Any]] | None:
    """Return the ranks of a run as plain values; None for a run of one process."""
    if not ranks:
        return None
    return [
        {
            "rank": one.rank,
            "status": str(one.status.kind) if one.has_store else None,
            "reason": one.status.sentence,
            "seconds": one.status.seconds,
            "update": one.update,
            "machine": one.machine or None,
            "device": one.device or None,
            "pid": one.pid,
            "started_at": one.started_at,
            "damaged_events": one.completeness.damaged_events,
            "doubt": one.completeness.doubt or lacks_of(one, ranks),
        }
        for one in ranks
    ]

"""Rows of the tables `latches` and `sightings`, made from events and read back as sightings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from esper.karn.store.sightings import (
    last_moment_of,
    minibatches_of,
    reproduction_of,
    sightings_of,
    states_reproduction,
    steps_of,
)
from esper.leyline.telemetry import (
    PHASES,
    STEP_PHASES,
    IncidentRecorded,
    NonfiniteSighting,
    PPOUpdatePayload,
)
from esper.leyline.text.sighting_words import KIND_WORDS

#: The column that counts sightings of a phase.
_COUNTS: Final = {"update": "minibatches"} | dict.fromkeys(STEP_PHASES, "steps")
#: Defaults of missing columns: `latches` has no counts and no last place, and stores of older
#: versions lack more.
_ROW_DEFAULTS: Final[dict[str, Any]] = {
    "minibatches": 0,
    "steps": 0,
    "last_epoch": 0,
    "last_minibatch": 0,
    "first_phase": "update",
    "first_host": None,
    "first_step": None,
    "first_part": "",
    "reproduced": 1,
    "planted": 0,
}
_ROW_TYPES: Final[dict[str, Any]] = {
    "update_index": int,
    "head": str,
    "quantity": str,
    "kind": str,
    "minibatches": int,
    "steps": int,
    "first_epoch": int,
    "first_minibatch": int,
    "first_phase": str,
    "first_host": int | None,
    "first_step": int | None,
    "first_part": str,
    "last_epoch": int,
    "last_minibatch": int,
    "last_phase": str,
    "last_part": str,
    "reproduced": int,
    "planted": int,
}


def _phase_rank(column: str) -> str:
    """Return `sightings.phase_rank` in SQL."""
    cases = " ".join(f"WHEN '{phase}' THEN {rank}" for rank, phase in enumerate(PHASES))
    return f"CASE {column} {cases} ELSE {len(PHASES)} END"


def _outermost(table: str, columns: Sequence[str], order: str) -> str:
    """Return an SQL assignment of columns from whichever of two rows comes first."""
    names = ", ".join(columns)
    known = ", ".join(f"{table}.{name} AS {name}" for name in columns)
    new = ", ".join(f"excluded.{name}" for name in columns)
    rows = f"SELECT {known} UNION ALL SELECT {new}"
    return f"({names}) = (SELECT * FROM ({rows}) ORDER BY {order} LIMIT 1)"


# The order of `sightings.Moment`. The last place has no host and no step.
_FIRST_ORDER: Final = (
    f"{_phase_rank('first_phase')}, first_phase, first_epoch, first_minibatch,"
    " ifnull(first_step, -1), ifnull(first_host, -1), first_part"
)
_LAST_ORDER: Final = (
    f"{_phase_rank('last_phase')} DESC, last_phase DESC, last_epoch DESC, last_minibatch DESC,"
    " last_part DESC"
)
_FIRST: Final = (
    "first_phase",
    "first_epoch",
    "first_minibatch",
    "first_step",
    "first_host",
    "first_part",
)
_LAST: Final = ("last_phase", "last_epoch", "last_minibatch", "last_part")
# The join of a semilattice, independent of order: the earlier sighting is kept; a latch is
# reproduced if one sighting was (`sightings.reproduction_of`), and planted if all were.
JOIN_LATCH: Final = f"""
    INSERT INTO latches (
        head, kind, quantity, first_update, first_epoch, first_minibatch,
        first_phase, first_host, first_step, first_part, reproduced, planted
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (head, kind, quantity) DO UPDATE SET
        {_outermost("latches", ("first_update", *_FIRST), f"first_update, {_FIRST_ORDER}")},
        reproduced = max(reproduced, excluded.reproduced),
        planted = min(planted, excluded.planted)
"""
# As `latches`; if an update reports a source twice, the larger counts and outermost places count.
JOIN_SIGHTING: Final = f"""
    INSERT INTO sightings (
        head, quantity, kind, update_index,
        minibatches, first_epoch, first_minibatch, last_epoch, last_minibatch,
        first_phase, first_host, first_step, first_part, last_phase, last_part, steps, reproduced,
        planted
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (head, quantity, kind, update_index) DO UPDATE SET
        minibatches = max(minibatches, excluded.minibatches),
        {_outermost("sightings", _FIRST, _FIRST_ORDER)},
        {_outermost("sightings", _LAST, _LAST_ORDER)},
        steps = max(steps, excluded.steps),
        reproduced = max(reproduced, excluded.reproduced),
        planted = min(planted, excluded.planted)
"""


def latch_rows(payload: PPOUpdatePayload | IncidentRecorded) -> Iterator[tuple[Any, ...]]:
    """Yield rows of `latches`; a detection without provenance has the quantity "unknown"."""
    for seen in sightings_of(payload):
        yield latch_row(payload.update, seen)


def latch_row(update: int, seen: NonfiniteSighting) -> tuple[Any, ...]:
    """Return the row of `latches` for one sighting."""
    return (
        *(seen.head, seen.kind, seen.quantity),
        *(update, seen.epoch, seen.minibatch),
        *(seen.phase, seen.host, seen.step, seen.part),
        *(reproduction_of(seen), int(seen.planted)),
    )


def sighting_rows(payload: PPOUpdatePayload | IncidentRecorded) -> Iterator[tuple[Any, ...]]:
    """Yield rows of `sightings`."""
    for seen in sightings_of(payload):
        yield sighting_row(payload.update, seen)


def sighting_row(update: int, seen: NonfiniteSighting) -> tuple[Any, ...]:
    """Return the row of `sightings` for what one update saw."""
    last = last_moment_of(update, seen)
    return (
        *(seen.head, seen.quantity, seen.kind, update),
        *(minibatches_of(seen), seen.epoch, seen.minibatch, last.epoch, last.minibatch),
        *(seen.phase, seen.host, seen.step, seen.part, last.phase, last.part),
        *(steps_of(seen), reproduction_of(seen), int(seen.planted)),
    )


def sightings_in(row: Mapping[str, Any]) -> list[tuple[int, NonfiniteSighting]]:
    """Return the sightings in a row of `latches` or `sightings`, each with its update.

    A row of `sightings` has the first and the last place, counts, and whether it was reproduced.
    The sightings returned merge to the same row again. A row with a value of a wrong type returns
    nothing, and a missing column has its default.

    Args:
        row: values by name of column.
    """
    values = _ROW_DEFAULTS | dict(row)
    values.setdefault("update_index", values.get("first_update"))
    values.setdefault("last_phase", values["first_phase"])
    values.setdefault("last_part", values["first_part"])
    if values.get("kind") not in KIND_WORDS or not all(
        isinstance(values.get(name), types) for name, types in _ROW_TYPES.items()
    ):
        return []
    first_phase, last_phase = values["first_phase"], values["last_phase"]
    first_place = values["first_epoch"], values["first_minibatch"]
    last_place = values["last_epoch"], values["last_minibatch"]

    def seen(
        phase: str,
        part: str,
        first: tuple[int, int],
        last: tuple[int, int],
        host: int | None = None,
        step: int | None = None,
    ) -> tuple[int, NonfiniteSighting]:
        return values["update_index"], NonfiniteSighting(
            head=values["head"],
            quantity=values["quantity"],
            kind=values["kind"],
            count=values[_COUNTS[phase]] if phase in _COUNTS else 0,
            epoch=first[0],
            minibatch=first[1],
            last_epoch=last[0],
            last_minibatch=last[1],
            phase=phase,
            host=host,
            step=step,
            part=part,
            reproduced=bool(values["reproduced"]),
            planted=bool(values["planted"]),
        )

    host, step = values["first_host"], values["first_step"]
    is_one = (first_phase, values["first_part"]) == (last_phase, values["last_part"])
    end = last_place if is_one else (0, 0)
    found = [seen(first_phase, values["first_part"], first_place, end, host, step)]
    if not is_one:
        start, later = last_place, None
        if first_phase == last_phase:
            # One step later, so that it never precedes the first sighting.
            start, later = max(first_place, last_place), 0 if step is None else step + 1
        found.append(seen(last_phase, values["last_part"], start, last_place, step=later))
    for phases, column in ((STEP_PHASES, "steps"), (("update",), "minibatches")):
        if values[column] and not {first_phase, last_phase} & set(phases):
            found.append(seen(phases[-1], "", (0, 0), (0, 0)))
    is_stated = any(states_reproduction(one) for _, one in found)
    if values["reproduced"] == 1 and first_phase != last_phase and not is_stated:
        found.append(seen("hosts", "", (0, 0), (0, 0)))  # the only phase between these two
    return found

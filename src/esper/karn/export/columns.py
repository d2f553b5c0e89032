"""The exported tables: their columns, and batches of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Columns and types by table. All values except `class` may be missing; `rank` is, in a run of one
#: process. In `latches` and `evidence` it is the rank of the first sighting.
TABLES: Final[Mapping[str, Mapping[str, type]]] = {
    "figures": {
        "run": str,
        "update": int,
        "time": float,
        "group": str,
        "quantity": str,
        "value": float,
        "class": str,
        "rank": int,
    },
    "latches": {
        "run": str,
        "group": str,
        "light": str,
        "state": str,
        "update": int,
        "quantity": str,
        "kind": str,
        "phase": str,
        "epoch": int,
        "minibatch": int,
        "host": int,
        "step": int,
        "part": str,
        "reproduced": bool,
        "planted": bool,
        "rank": int,
    },
    "evidence": {
        "run": str,
        "group": str,
        "quantity": str,
        "kind": str,
        "first_update": int,
        "first_epoch": int,
        "first_minibatch": int,
        "last_update": int,
        "last_epoch": int,
        "last_minibatch": int,
        "updates": int,
        "minibatches": int,
        "steps": int,
        "first_phase": str,
        "first_host": int,
        "first_step": int,
        "first_part": str,
        "last_phase": str,
        "last_part": str,
        "is_active": bool,
        "reproduced": bool,
        "planted": bool,
        "rank": int,
    },
    "sightings": {
        "run": str,
        "update": int,
        "time": float,
        "group": str,
        "quantity": str,
        "kind": str,
        "count": int,
        "epoch": int,
        "minibatch": int,
        "last_epoch": int,
        "last_minibatch": int,
        "phase": str,
        "host": int,
        "step": int,
        "part": str,
        "reproduced": bool,
        "planted": bool,
        "rank": int,
    },
    "settings": {"run": str, "setting": str, "value": str},
    "hosts": {
        "run": str,
        "update": int,
        "time": float,
        "episode": int,
        "step": int,
        "host": int,
        "quantity": str,
        "value": float,
        "class": str,
        "rank": int,
    },
}

#: Values of the column `class`, which classifies `value`.
CLASSES: Final = ("finite", "nan", "+inf", "-inf")


@dataclass(frozen=True)
class Batch:
    """Some rows of one table.

    Attributes:
        table: name of the table.
        columns: all columns by name, lists or NumPy arrays of equal length.
    """

    table: str
    columns: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def batch_of(table: str, rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Return rows as a batch; missing values are None."""
    return Batch(table, {name: [row.get(name) for row in rows] for name in TABLES[table]})

"""Folds a run's events up to an id, skipping events that cannot affect the snapshot.

Steps, decisions and seed transitions are most of a store, and a snapshot shows only the newest
ones. Older ones are not read, so damaged or missing events among them are not counted.
"""

from typing import Final

from esper.karn.sanctum.aggregator import SanctumAggregator
from esper.karn.sanctum.fold import event_log
from esper.karn.sanctum.fold.attention import light_of, lit_lights
from esper.karn.sanctum.fold.ledgers.host_ledger import STEPS_KEPT
from esper.karn.sanctum.fold.ledgers.run_ledger import SPEED_STEPS
from esper.karn.sanctum.fold.log_book import LOG_LINES_KEPT
from esper.karn.store.errors import RunStoreError
from esper.karn.store.reading.run_reader import RunReader
from esper.leyline.telemetry import SeedTransitioned

#: Events in memory at a time. Python's garbage collector visits their many lists repeatedly, so
#: reading a few thousand at once takes four times as long.
EVENTS_PER_READ: Final = 128
#: The newest steps that a snapshot depends on, doubled because some may be damaged.
_STEPS_THAT_COUNT: Final = 2 * max(SPEED_STEPS, STEPS_KEPT)


def first_that_counts(reader: RunReader, up_to: int) -> int:
    """Return the id from which on all events affect the snapshot that ends with `up_to`.

    Steps, decisions and transitions before it need not be read. It is 1 if the indexes needed to
    skip them are damaged.
    """
    try:
        if not reader.rare_is_whole(up_to):
            return 1
        steps = reader.last_ids("step_completed", _STEPS_THAT_COUNT, up_to=up_to)
        if len(steps) < _STEPS_THAT_COUNT:
            return min(reader.thinned().up_to, up_to) + 1  # older ones were removed
        return min(steps[-1], _first_line_of_seeds(reader, up_to))
    except RunStoreError:
        return 1


def _first_line_of_seeds(reader: RunReader, up_to: int) -> int:
    """Return the id of the oldest transition that has a line in the log."""
    lines, oldest, end = 0, up_to, up_to
    while transitions := reader.read_last("seed_transitioned", LOG_LINES_KEPT, up_to=end):
        for event in transitions:
            if isinstance(event.payload, SeedTransitioned) and event_log.has_line(event.payload):
                lines, oldest = lines + 1, event.id
                if lines == LOG_LINES_KEPT:
                    return oldest
        end = transitions[-1].id - 1
    return oldest


def join_tables(
    reader: RunReader, aggregator: SanctumAggregator, *, up_to_update: int | None = None
) -> None:
    """If events are damaged, add the sightings of the tables to the aggregator.

    A light in the tables without an event is damage, too.

    Args:
        reader: reads the run's store.
        aggregator: has applied the events.
        up_to_update: the last update to add; None for all.

    Raises:
        RunStoreError: the store cannot be read.
    """
    known = {} if up_to_update is None else {"up_to_update": up_to_update}
    snapshot = aggregator.snapshot()
    lit = {(head, light_of(kind)) for head, kind in reader.lights(**known)}
    is_hidden = not lit <= set(lit_lights(snapshot.tamiyo))
    if is_hidden and not snapshot.run.damaged_events:
        aggregator.note_hidden_damage()
    if is_hidden or snapshot.run.damaged_events:
        aggregator.join_sightings(reader.sightings(**known))


def fold_up_to(reader: RunReader, aggregator: SanctumAggregator, up_to: int) -> None:
    """Apply all events up to an id that affect the snapshot there.

    Args:
        reader: reads the run's store.
        aggregator: has applied all relevant events of an earlier moment.
        up_to: the last id to apply.

    Raises:
        RunStoreError: the store cannot be read.
    """
    counts_from = first_that_counts(reader, up_to)
    after = aggregator.last_id
    while after < up_to:
        bulk = after >= counts_from - 1
        end = up_to if bulk else counts_from - 1
        events = reader.read(after, EVENTS_PER_READ, up_to=end, bulk=bulk)
        for event in events:
            aggregator.apply(event)
        after = events[-1].id if len(events) == EVENTS_PER_READ else end

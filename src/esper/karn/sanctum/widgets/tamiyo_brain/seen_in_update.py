"""What was seen in one update, as far as the evidence of the run has it."""

from collections.abc import Sequence

from esper.karn.sanctum.schema import Evidence
from esper.karn.sanctum.widgets.tamiyo_brain.action_heads_panel import display_name
from esper.karn.store.sightings import is_repeated
from esper.leyline.telemetry import GROUPS
from esper.leyline.text.sighting_words import (
    KIND_WORDS,
    NOT_REPRODUCED,
    minibatch_words,
    place_words,
    quantity_words,
)


def seen_in_update(evidence: Sequence[Evidence], update: int) -> list[str]:
    """Return the sightings known from an update, in the order of the evidence."""
    seen = []
    for one in evidence:
        who = GROUPS.get(one.head) or display_name(one.head)
        kind = KIND_WORDS.get(one.kind, one.kind)
        if update == one.first_update:
            phase = one.first_phase
            quantity = quantity_words(one.quantity, one.first_part)
            words = place_words(one.first_phase, one.first_host, one.first_step, one.other_hosts)
            place = _place(one.first_epoch, one.first_minibatch, words, "from")
        elif update == one.last_update:
            phase = one.last_phase
            quantity = quantity_words(one.quantity, one.last_part)
            words = place_words(one.last_phase, None, None)
            place = _place(one.last_epoch, one.last_minibatch, words, "up to")
        else:
            continue
        again = f", {NOT_REPRODUCED}" if is_repeated(phase) and not one.reproduced else ""
        seen.append(f"{who}: {kind} in {quantity}{place}{again}")
    return seen or ["not recorded: a run keeps first and last sightings only; a replay shows it"]


def _place(epoch: int, minibatch: int, words: str, preposition: str) -> str:
    when = minibatch_words(epoch, minibatch)
    at = f" {preposition} {when}" if when else ""
    return at + (f", {words}" if words else "")

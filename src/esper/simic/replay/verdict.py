"""The verdict of a replay: whether it saw what was recorded."""

from collections.abc import Collection

from esper.leyline.telemetry import NonfiniteSighting
from esper.leyline.text.sighting_words import sighting_words, what_words, where_words

REPRODUCED = "reproduced"
DIFFERS = "differs"
NOT_REPRODUCED = "not reproduced"
#: Phases that a replay repeats; the other ones precede the update.
REPEATED_PHASES = ("given", "preparation", "update")


def judge(
    recorded: tuple[NonfiniteSighting, ...],
    seen: tuple[NonfiniteSighting, ...],
    phases: Collection[str] = REPEATED_PHASES,
) -> tuple[str, tuple[str, ...]]:
    """Return the verdict, and a sentence for each difference.

    Args:
        recorded: sightings in the capsule.
        seen: sightings in the replay.
        phases: that were repeated.
    """
    recorded = tuple(one for one in recorded if one.phase in phases)
    then = {(one.head, one.quantity, one.kind): one for one in recorded}
    now = {(one.head, one.quantity, one.kind): one for one in seen}
    if recorded and not seen:
        return NOT_REPRODUCED, ("everything was finite in the replay",)
    differences = [
        f"recorded, not seen now: {sighting_words(then[key])}" for key in then.keys() - now.keys()
    ]
    differences += [
        f"seen now, not recorded: {sighting_words(now[key])}" for key in now.keys() - then.keys()
    ]
    for key in then.keys() & now.keys():
        if _when(then[key]) != _when(now[key]):
            differences.append(
                f"{what_words(now[key])}: recorded ({where_words(then[key])}), "
                f"seen now ({where_words(now[key])})"
            )
        elif then[key].count != now[key].count:
            differences.append(
                f"{what_words(now[key])}: recorded in {then[key].count} minibatches, "
                f"seen now in {now[key].count}"
            )
    return (DIFFERS if differences else REPRODUCED), tuple(sorted(differences))


def _when(sighting: NonfiniteSighting) -> tuple[str, int, int]:
    return sighting.phase, sighting.epoch, sighting.minibatch

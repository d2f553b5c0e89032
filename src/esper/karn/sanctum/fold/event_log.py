"""The text of the lines of the event log."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from esper.karn.sanctum.fold.latches import Latches
from esper.karn.sanctum.schema import FirstSighting
from esper.leyline.heads import Stage
from esper.leyline.telemetry import (
    GROUPS,
    CheckpointWritten,
    EpisodesCompleted,
    HostsStalled,
    IncidentRecorded,
    InterventionTaken,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SeedTransitioned,
)
from esper.leyline.text.origin_words import no_origin_words, origin_words
from esper.leyline.text.plain_text import name_at
from esper.leyline.text.plurals import counted
from esper.leyline.text.rank_words import ranks_words
from esper.leyline.text.sighting_words import (
    KIND_WORDS,
    NOT_REPRODUCED,
    PLANTED,
    joined,
    minibatch_words,
    place_words,
    quantity_words,
)

#: Stages whose transitions get a line, with their words.
_STAGE_WORDS: Final[dict[int, str]] = {
    Stage.GERMINATED: "germinated",
    Stage.BLENDING: "blending",
    Stage.FOSSILIZED: "fossilized",
    Stage.PRUNED: "pruned",
}
#: Cause of a transition within blending that only changes its target.
_RETARGET: Final = "retarget"
#: Words for the actions of interventions.
ACTION_WORDS: Final = {
    "repeat": "repeated: finite, nothing skipped",
    "skip": "skipped bad minibatches",
    "rollback": "rolled back",
    "halt": "halted",
}


def started(payload: RunStarted) -> str:
    """Return the line of a start or a resume."""
    if payload.resumed_from_update is not None:
        return f"resumed after update {payload.resumed_from_update} by process {payload.pid}"
    if payload.library:
        return (
            f"run {payload.name or payload.run_id} started: {payload.library} is watched, "
            f"{counted(len(payload.heads), 'head')}, {payload.device}"
        )
    return (
        f"run {payload.name or payload.run_id} started: {payload.episodes} episodes of "
        f"{payload.task} on {payload.environments} hosts, seed {payload.seed}, {payload.device}"
    )


def newly_lit(
    before: Latches, found: Latches, update: int
) -> Iterable[tuple[str, int | None, str]]:
    """Yield head, host and line for each light that `found` turns on, in order of time."""
    lights = {(head, "Inf") for head in found.inf - before.inf}
    lights |= {(head, "NaN") for head in found.nan - before.nan}
    for seen in found.in_order(sorted(found.heads())):
        light = (seen.head, "NaN" if seen.kind == "nan" else "Inf")
        if light in lights:
            lights.remove(light)
            yield seen.head, seen.host, _sighting(seen)
    for head, word in sorted(lights):  # detected, but the place is not known
        yield head, None, f"{_who(head)} went {word}, update {update}"


def intervention(payload: InterventionTaken) -> str:
    """Return the line of an intervention, with its reason."""
    action = ACTION_WORDS.get(payload.action, payload.action)
    return f"update {payload.update} {action}: {payload.cause} ({payload.reason})"


def standing_still(payload: PPOUpdatePayload) -> str:
    """Return the line of training that moves no weight although steps are due."""
    return (
        f"STALLED: no weight has moved for {payload.still_updates} updates although steps "
        f"were due, up to update {payload.update}"
    )


def incident(payload: IncidentRecorded) -> str:
    """Return the line of an incident: where it began if known, and whether it has a capsule."""
    if payload.origin is not None:
        words = origin_words(payload.origin)
        return f"incident {payload.number} of update {payload.update} {words}"
    if payload.no_origin:
        why = no_origin_words(payload.no_origin)
        return f"incident {payload.number} of update {payload.update}; {why}"
    if not payload.path:
        return f"incident {payload.number} of update {payload.update} not kept: {payload.reason}"
    return f"incident {payload.number} of update {payload.update} kept: {payload.path}"


def first_out(seen: FirstSighting) -> str:
    """Return a first sighting in words: "op went Inf in logits, rank 1, update 2"."""
    kind = KIND_WORDS.get(seen.kind, seen.kind)
    what = f"{_who(seen.head)} went {kind} in {quantity_words(seen.quantity, seen.part)}"
    return joined(
        what,
        "" if seen.rank is None else ranks_words([seen.rank]),
        place_words(seen.phase, seen.host, seen.step),
        f"update {seen.update}",
        "" if seen.reproduced else NOT_REPRODUCED,
        PLANTED if seen.planted else "",
    )


def _sighting(seen: FirstSighting) -> str:
    kind = KIND_WORDS.get(seen.kind, seen.kind)
    return joined(
        f"{_who(seen.head)} went {kind} first in {quantity_words(seen.quantity, seen.part)}",
        place_words(seen.phase, seen.host, seen.step),
        f"update {seen.update}",
        minibatch_words(seen.epoch, seen.minibatch),
        "" if seen.reproduced else NOT_REPRODUCED,
        PLANTED if seen.planted else "",
    )


def _who(head: str) -> str:
    return GROUPS.get(head, head)


def has_line(payload: SeedTransitioned) -> bool:
    """Return whether a seed's transition gets a line."""
    return payload.to_stage in _STAGE_WORDS


def transition(
    payload: SeedTransitioned, slots: Sequence[str], blueprints: Sequence[str]
) -> str | None:
    """Return the line of a seed's transition; None if it gets none.

    Hosts are counted from 1, like on the screen.
    """
    if not has_line(payload):
        return None
    blueprint = name_at(blueprints, payload.blueprint)
    slot = name_at(slots, payload.slot)
    is_retarget = payload.cause == _RETARGET
    word = "set to another alpha" if is_retarget else _STAGE_WORDS[payload.to_stage]
    return f"episode {payload.episode}, host {payload.host + 1}: {blueprint} {word} in {slot}"


def episodes_done(payload: EpisodesCompleted, episodes: int, score: float | None) -> str:
    """Return the line of a completed batch of episodes; `score` is the mean of its finite hosts."""
    last = payload.first_episode + len(payload.score) - 1
    which = (
        f"episode {last}"
        if last == payload.first_episode
        else (f"episodes {payload.first_episode}–{last}")
    )
    of = f" of {episodes}" if episodes else ""
    if score is None:
        return f"{which}{of} done"
    seeds = sum(payload.fossilized)
    broken = sum(not math.isfinite(value) for value in payload.score)
    but = f" ({broken} of {len(payload.score)} hosts not finite)" if broken else ""
    mean_score = "NaN" if math.isnan(score) else f"{score:.3f}"
    return f"{which}{of} done: score {mean_score}{but}, {counted(seeds, 'seed')} fossilized"


def skipped(payload: PPOUpdatePayload) -> str:
    """Return the line of an update with skipped minibatches."""
    return (
        f"update {payload.update}: {payload.minibatches_skipped} of {payload.minibatches} "
        "minibatches skipped as non-finite"
    )


def checkpoint(payload: CheckpointWritten) -> str:
    """Return the line of a checkpoint."""
    return f"checkpoint of update {payload.update} written: {payload.path}"


def stalled(payload: HostsStalled) -> tuple[str, str]:
    """Return level and line of a process with hosts that does not answer, or answers again."""
    process = f"process {payload.pid}, which holds hosts,"
    if payload.answered:
        return "warning", f"{process} answers again after {payload.seconds:.0f} s"
    return "error", f"STUCK: {process} has not answered for {payload.seconds:.0f} s"


def finished(payload: RunFinished, *, is_watched: bool = False) -> tuple[str, str]:
    """Return level and line of the end of a run; a watched run has no episodes."""
    level = "info" if payload.status in ("finished", "stopped") else "error"
    done = (
        counted(payload.update, "update")
        if is_watched
        else (f"{payload.episodes_done} episodes, {payload.update} updates")
    )
    text = f"{payload.status} after {done}"
    return level, f"{text}: {payload.reason}" if payload.reason else text


def mean(values: Sequence[float]) -> float | None:
    """Return the mean of the finite values, because non-finite hosts are not learned from.

    It is NaN if no value is finite, and None if there are no values.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan if values else None
    try:
        return math.fsum(finite) / len(finite)
    except OverflowError:  # the sum of finite values may overflow; their mean cannot
        return math.fsum(value / len(finite) for value in finite)

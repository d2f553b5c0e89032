"""Stages of seeds: one table of stages and events, and the state of every slot.

    DORMANT ─germinate→ GERMINATED ─begin→ TRAINING ─advance→ BLENDING ─arrive→ HOLDING
                                                              BLENDING ←retarget─ HOLDING
                                                            FOSSILIZED ←fossilize─ HOLDING
    GERMINATED, TRAINING, BLENDING or HOLDING ─prune→ PRUNED ─fade→ EMBARGOED ─release→ DORMANT

A seed TRAINING learns in the shadow of its host. From BLENDING on it is part of the host, by alpha;
alpha changes once a step, along a ramp. PRUNED, it fades out along a ramp (at once if it was never
part of the host), and its slot is then EMBARGOED for `EMBARGO_STEPS` steps. FOSSILIZED, it keeps
its alpha and keeps learning with the host.

This module does not use torch: it is bookkeeping over numpy arrays `[N, S]`, N hosts by S slots.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from esper.growth.kernel.curves import ramp
from esper.leyline.errors import EsperError
from esper.leyline.heads import SLOT_CHOICES, Op, Stage

#: Whole steps that a slot stays empty after a pruned seed has faded out.
EMBARGO_STEPS = 2
#: `blueprint` and `style` of an empty slot.
EMPTY = -1

_LINEAR = 0  # index of the linear curve: the first blend has no choice of curve


class SeedEvent(StrEnum):
    """Events of a seed: five from actions of the policy, four from the passing of steps."""

    GERMINATE = "germinate"
    BEGIN = "begin"  # the next slice of training starts
    ADVANCE = "advance"
    ARRIVE = "arrive"  # alpha has reached its target
    RETARGET = "retarget"
    FOSSILIZE = "fossilize"
    PRUNE = "prune"
    FADE = "fade"  # alpha has reached zero
    RELEASE = "release"  # the embargo is over


#: All transitions; everything else is illegal.
TRANSITIONS: dict[tuple[Stage, SeedEvent], Stage] = {
    (Stage.DORMANT, SeedEvent.GERMINATE): Stage.GERMINATED,
    (Stage.GERMINATED, SeedEvent.BEGIN): Stage.TRAINING,
    (Stage.GERMINATED, SeedEvent.PRUNE): Stage.PRUNED,
    (Stage.TRAINING, SeedEvent.ADVANCE): Stage.BLENDING,
    (Stage.TRAINING, SeedEvent.PRUNE): Stage.PRUNED,
    (Stage.BLENDING, SeedEvent.ARRIVE): Stage.HOLDING,
    (Stage.BLENDING, SeedEvent.RETARGET): Stage.BLENDING,
    (Stage.BLENDING, SeedEvent.PRUNE): Stage.PRUNED,
    (Stage.HOLDING, SeedEvent.RETARGET): Stage.BLENDING,
    (Stage.HOLDING, SeedEvent.FOSSILIZE): Stage.FOSSILIZED,
    (Stage.HOLDING, SeedEvent.PRUNE): Stage.PRUNED,
    (Stage.PRUNED, SeedEvent.FADE): Stage.EMBARGOED,
    (Stage.EMBARGOED, SeedEvent.RELEASE): Stage.DORMANT,
}

#: What each op does to the seed in the slot it names; WAIT does nothing.
EVENT_OF_OP: dict[Op, SeedEvent] = {
    Op.GERMINATE: SeedEvent.GERMINATE,
    Op.ADVANCE: SeedEvent.ADVANCE,
    Op.SET_ALPHA_TARGET: SeedEvent.RETARGET,
    Op.PRUNE: SeedEvent.PRUNE,
    Op.FOSSILIZE: SeedEvent.FOSSILIZE,
}

#: Stages in which a seed is part of its host's own forward pass, as far as its alpha goes.
IN_HOST = (Stage.BLENDING, Stage.HOLDING, Stage.FOSSILIZED, Stage.PRUNED)


class IllegalTransitionError(EsperError, ValueError):
    """An event is illegal in the stage of a seed."""


@dataclass(frozen=True)
class Transition:
    """A change of a seed's stage (or a new ramp within BLENDING)."""

    host: int
    slot: int
    blueprint: int
    from_stage: Stage
    to_stage: Stage
    cause: SeedEvent
    alpha: float


@dataclass
class Seeds:
    """The state of every slot of every host. All arrays are `[N, S]`.

    Attributes:
        stage: value of `Stage`.
        blueprint: index into `BLUEPRINT_CHOICES`, or EMPTY.
        style: index into `STYLE_CHOICES`, or EMPTY.
        alpha: how much of the seed is blended in, 0 to 1.
        target: the alpha that the ramp ends at (and that a TRAINING seed is trained with).
        tempo: steps of the first blend.
        start, goal, length, done, curve: the ramp alpha is on: from start to goal in `length`
            steps, of which `done` are taken, along `curve`.
        stage_steps: whole steps spent in the present stage.
        germinations: number of seeds in the slot so far, the present one included.
    """

    stage: np.ndarray
    blueprint: np.ndarray
    style: np.ndarray
    alpha: np.ndarray
    target: np.ndarray
    tempo: np.ndarray
    start: np.ndarray
    goal: np.ndarray
    length: np.ndarray
    done: np.ndarray
    curve: np.ndarray
    stage_steps: np.ndarray
    germinations: np.ndarray


def empty_seeds(hosts: int, slots: int = len(SLOT_CHOICES)) -> Seeds:
    """Return the state of hosts whose slots are all DORMANT."""
    shape = (hosts, slots)

    def integers(value: int = 0) -> np.ndarray:
        return np.full(shape, value, dtype=np.int64)

    return Seeds(
        stage=integers(Stage.DORMANT),
        blueprint=integers(EMPTY),
        style=integers(EMPTY),
        alpha=np.zeros(shape),
        target=np.zeros(shape),
        tempo=integers(),
        start=np.zeros(shape),
        goal=np.zeros(shape),
        length=integers(),
        done=integers(),
        curve=integers(_LINEAR),
        stage_steps=integers(),
        germinations=integers(),
    )


def clear_hosts(seeds: Seeds, hosts: np.ndarray) -> None:
    """Reset every slot of the given hosts."""
    fresh = empty_seeds(len(hosts), seeds.stage.shape[1])
    for name, values in vars(fresh).items():
        getattr(seeds, name)[hosts] = values


def _move(seeds: Seeds, host: int, slot: int, event: SeedEvent) -> Transition:
    before = Stage(seeds.stage[host, slot])
    after = TRANSITIONS.get((before, event))
    if after is None:
        allowed = ", ".join(stage.name for stage, known in TRANSITIONS if known == event)
        raise IllegalTransitionError(
            f"the seed in slot {slot} of host {host} is {before.name} and cannot {event}: "
            f"that takes {allowed}"
        )
    seeds.stage[host, slot] = after
    seeds.stage_steps[host, slot] = 0
    return Transition(
        host,
        slot,
        int(seeds.blueprint[host, slot]),
        before,
        after,
        event,
        float(seeds.alpha[host, slot]),
    )


def _start_ramp(seeds: Seeds, at: tuple[int, int], goal: float, length: int, curve: int) -> None:
    seeds.start[at] = seeds.alpha[at]
    seeds.goal[at] = goal
    seeds.length[at] = length
    seeds.done[at] = 0
    seeds.curve[at] = curve
    if length == 0:
        seeds.alpha[at] = goal


def germinate(
    seeds: Seeds, host: int, slot: int, *, blueprint: int, style: int, tempo: int, target: float
) -> Transition:
    """Put a seed into a DORMANT slot.

    Args:
        seeds: the state, changed in place.
        host, slot: where.
        blueprint: index into `BLUEPRINT_CHOICES`.
        style: index into `STYLE_CHOICES`.
        tempo: steps of its first blend, at least 1.
        target: the alpha of its first blend, above 0 and at most 1.

    Raises:
        IllegalTransitionError: the slot is not DORMANT.
    """
    _require(seeds, host, slot, SeedEvent.GERMINATE)
    at = host, slot
    seeds.blueprint[at] = blueprint
    seeds.style[at] = style
    seeds.tempo[at] = tempo
    seeds.target[at] = target
    seeds.germinations[at] += 1
    return _move(seeds, host, slot, SeedEvent.GERMINATE)


def advance(seeds: Seeds, host: int, slot: int) -> Transition:
    """Begin to blend a TRAINING seed in, linearly over its tempo, up to its target."""
    transition = _move(seeds, host, slot, SeedEvent.ADVANCE)
    at = host, slot
    _start_ramp(seeds, at, float(seeds.target[at]), int(seeds.tempo[at]), _LINEAR)
    return transition


def set_alpha_target(
    seeds: Seeds, host: int, slot: int, *, target: float, length: int, curve: int
) -> Transition:
    """Change the target alpha of a BLENDING or HOLDING seed, in `length` steps."""
    transition = _move(seeds, host, slot, SeedEvent.RETARGET)
    seeds.target[host, slot] = target
    _start_ramp(seeds, (host, slot), target, length, curve)
    return transition


def prune(seeds: Seeds, host: int, slot: int, *, length: int, curve: int) -> Transition:
    """Fade a seed out in `length` steps; at once if it is not part of its host yet."""
    entered = bool(seeds.alpha[host, slot] > 0)
    transition = _move(seeds, host, slot, SeedEvent.PRUNE)
    seeds.target[host, slot] = 0.0
    _start_ramp(seeds, (host, slot), 0.0, length if entered else 0, curve)
    return transition


def fossilize(seeds: Seeds, host: int, slot: int) -> Transition:
    """Make a HOLDING seed part of its host for good, with the alpha it has."""
    return _move(seeds, host, slot, SeedEvent.FOSSILIZE)


def _require(seeds: Seeds, host: int, slot: int, event: SeedEvent) -> None:
    if not is_legal(seeds, host, slot, event):
        _move(seeds, host, slot, event)  # raises, and says why


def is_legal(seeds: Seeds, host: int, slot: int, event: SeedEvent) -> bool:
    """Return whether the table allows the event in this slot now."""
    return (Stage(seeds.stage[host, slot]), event) in TRANSITIONS


def begin_slice(seeds: Seeds) -> list[Transition]:
    """Begin a slice of training: new seeds start TRAINING, every alpha moves one step."""
    moved = [
        _move(seeds, int(host), int(slot), SeedEvent.BEGIN)
        for host, slot in np.argwhere(seeds.stage == Stage.GERMINATED)
    ]
    on_ramp = (seeds.done < seeds.length) & np.isin(seeds.stage, (Stage.BLENDING, Stage.PRUNED))
    for host, slot in np.argwhere(on_ramp):
        at = int(host), int(slot)
        seeds.done[at] += 1
        start, goal = seeds.start[at], seeds.goal[at]
        if seeds.done[at] == seeds.length[at]:
            seeds.alpha[at] = goal  # exactly, without a rounding error
        else:
            fraction = float(seeds.done[at] / seeds.length[at])
            seeds.alpha[at] = start + (goal - start) * ramp(int(seeds.curve[at]), fraction)
    return moved


def end_slice(seeds: Seeds) -> list[Transition]:
    """End a slice of training: arrivals at a target, faded seeds, ends of embargoes."""
    seeds.stage_steps += 1
    moved = []
    over = (seeds.stage == Stage.EMBARGOED) & (seeds.stage_steps >= EMBARGO_STEPS)
    finished = seeds.done == seeds.length
    arrived = (seeds.stage == Stage.BLENDING) & finished
    faded = (seeds.stage == Stage.PRUNED) & finished
    for where, event in (
        (over, SeedEvent.RELEASE),
        (arrived, SeedEvent.ARRIVE),
        (faded, SeedEvent.FADE),
    ):
        for host, slot in np.argwhere(where):
            moved.append(_move(seeds, int(host), int(slot), event))
            if event is SeedEvent.FADE:
                seeds.blueprint[host, slot] = EMPTY
                seeds.style[host, slot] = EMPTY
    return moved

"""Two faults in one update, for the detection campaign: what may hide what, by path.

Both faults must be reported unless one lies on the other's path: in the same minibatch, and in the
same host where hosts matter. What is hidden may be reported, and need not be.
"""

from dataclasses import dataclass, replace

from detection.faults import HEAD_FAULTS, Fault
from detection.shared_faults import SHARED_FAULTS
from detection.stage import Sight, Stage, Where
from detection.state_faults import GIVEN_FAULTS, STATE_FAULTS
from esper.leyline.telemetry import SHARED

_OF_HEADS = (*HEAD_FAULTS, *(fault for fault in STATE_FAULTS if fault.name.startswith("head")))
_OF_ALL = (
    *HEAD_FAULTS, *SHARED_FAULTS, *STATE_FAULTS,
    *(fault for fault in GIVEN_FAULTS if fault.reach != "scale"),
)  # fmt: skip
_OF_A_HOST = ("input", "trunk", "rollout", "prepared")
_DERIVATIVES = (
    "loss derivative", "joint derivative", "value derivative", "logit derivative",
    "weight derivative",
)  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A fault in its place, and the sighting it must lead to."""

    fault: Fault
    where: Where
    sight: Sight

    @property
    def is_of_rollout(self) -> bool:
        """Return whether it breaks every minibatch of its host."""
        return self.where.prepares or self.fault.reach in ("prepared", "rollout")

    @property
    def breaks_all(self) -> bool:
        """Return whether it is a broken parameter that every forward pass of the trunk meets."""
        is_state = self.fault.reach in ("given", "step", "flip")
        return is_state and self.sight.head == SHARED and not self.sight.part.startswith("critic")


def minibatches_of(stage: Stage, one: Planted) -> set[int]:
    """Return the minibatches whose forward or backward pass a fault breaks."""
    every, index = range(len(stage.plan)), one.where.index
    if one.is_of_rollout:
        return {number for number in every if one.where.host in stage.plan[number]}
    if one.fault.reach == "given":
        return set(every)
    if one.fault.reach == "step":
        return {number for number in every if number > index}
    if one.fault.reach in ("flip", "scale"):
        return {number for number in every if number >= index}
    if one.fault.reach in ("moment", "shown"):
        return set()
    return {index}


def hides(stage: Stage, cause: Planted, effect: Planted) -> bool:
    """Return whether `effect` lies on the path of `cause`, so that it need not be reported."""
    if effect.where.lasting and not cause.where.lasting:
        return False  # the second pass shows it alone
    how, what = cause.fault.reach, effect.fault.reach
    if effect.fault.name == "huge_weight":
        return cause.breaks_all and how == "given"  # finite itself, and no logit is left to show it
    if cause.fault.name == "ratio" and effect.fault.name == "exploding_joint_ratio":
        places = [(one.where.index, one.sight.host, one.sight.step) for one in (cause, effect)]
        return cause.sight.kind == "+inf" and places[0] == places[1]  # both overflow together
    if what in ("given", "moment", "step", "flip", "scale"):
        return "step" in cause.sight.part and what in ("step", "flip")
    is_early = effect.is_of_rollout and (cause.is_of_rollout or how == "given")
    if not is_early and not effect.is_of_rollout:
        is_early = effect.where.index in minibatches_of(stage, cause)
    if effect.fault.name == "exploding_ratio" and not is_early:
        is_early = bool(minibatches_of(stage, effect) & minibatches_of(stage, cause))
    if not is_early:
        return False
    same_host = cause.where.host == effect.where.host
    if cause.breaks_all:
        return True
    if what in _DERIVATIVES:
        return _hides_derivative(cause, effect)
    if how in _DERIVATIVES or how == "scale":
        return False
    if what == "term":
        return True
    if how == "term":
        return False
    if what in ("input", "trunk"):
        return same_host and how in _OF_A_HOST
    if what in ("head", "prepared", "shown", "rollout"):
        return same_host and how in (*_OF_A_HOST, "joint")
    # Value, advantage and joint ratio. A broken weight of a head breaks that head in every host.
    return same_host or how in ("given", "step", "flip")


def _hides_derivative(cause: Planted, effect: Planted) -> bool:
    how, what = cause.fault.reach, effect.fault.reach
    if how not in _DERIVATIVES:
        return True  # the loss broke, or its scale
    is_shared = effect.sight.head == SHARED
    if how == "loss derivative":
        return True
    if what == "logit derivative":
        return how == "joint derivative"
    if what == "weight derivative":
        if is_shared:
            return how != "weight derivative"
        return how == "joint derivative"
    return False


def is_behind(stage: Stage, cause: Planted, effect: Planted) -> bool:
    """Return whether `effect` fires once, after a step that `cause` made non-finite."""
    if effect.where.lasting or effect.where.prepares:
        return False
    broken = minibatches_of(stage, cause)
    if cause.fault.reach == "moment":
        broken = {cause.where.index}
    if cause.fault.name.startswith("given"):
        broken = {0} - ({0} if cause.fault.reach == "shown" else set())
    first = effect.where.index
    if effect.fault.reach == "prepared":
        first = min(n for n in range(len(stage.plan)) if effect.where.host in stage.plan[n])
    return bool(broken) and min(broken) < first


def plant_pair(stage: Stage, turn: int) -> tuple[str, list[Sight]] | None:
    """Plant two faults; return the name of the pair and the sightings, or None if it fails."""
    random = stage.random
    times = ((True, True), (True, False), (False, True), (False, False))[turn % 4]
    one, two = random.choice(_OF_HEADS), random.choice(_OF_ALL)
    if random.random() < 0.4:
        two = random.choice(_OF_HEADS)
    pair = [(one, times[0]), (two, times[1])]
    if random.random() < 0.5:
        pair.reverse()
    wheres = _two_places(stage, pair)
    if wheres is None:
        return None
    done = []
    for (fault, lasting), where in zip(pair, wheres, strict=True):
        if (fault.times == "lasting" and not lasting) or (
            fault.needs_moments and not stage.is_warm
        ):
            return None
        sight = fault.plant(stage, where)
        if sight is None:
            return None
        done.append(Planted(fault, where, sight))
    first, second = done
    if (first.sight.head, first.sight.quantity) == (second.sight.head, second.sight.quantity):
        return None  # the two would be one sighting
    if first.sight.head == second.sight.head != SHARED:
        return None
    sights = [
        replace(effect.sight, required=not hides(stage, cause, effect), last=None)
        for cause, effect in ((second, first), (first, second))
    ]
    behind = is_behind(stage, first, second) or is_behind(stage, second, first)
    for cause, effect in ((first, second), (second, first)):
        # Weights that a broken moment made NaN hide what happens once, behind that step: those of a
        # head break the joint ratio, and so every derivative, the policy loss and the entropy loss.
        is_shared = cause.sight.head == SHARED or effect.fault.reach in _DERIVATIVES
        is_shared |= effect.fault.reach == "term" and effect.sight.quantity != "value_loss"
        is_blind = cause.fault.reach == "moment" and is_shared
        if is_blind and is_behind(stage, cause, effect):
            sights = [
                replace(sight, required=sight.required and place is not effect)
                for sight, place in zip(sights, (first, second), strict=True)
            ]
    if behind and stage.config.amp == "fp16":
        # By then the two passes have different weights, and a gradient may overflow by its scale.
        sights = [
            replace(sight, required=sight.required and sight.quantity != "gradient")
            for sight in sights
        ]
    words = {True: "lasting", False: "once"}
    name = f"{words[times[0]]} and {words[times[1]]}" if times[0] != times[1] else (
        f"both {words[times[0]]}"
    )  # fmt: skip
    return name + (", one behind the other" if behind else ""), sights


def _two_places(stage: Stage, pair: list[tuple[Fault, bool]]) -> tuple[Where, Where] | None:
    """Draw two places, in the same or another minibatch and host, of two different heads."""
    random, heads = stage.random, len(stage.layout.names)
    if heads < 2:
        return None
    first_head, second_head = random.sample(range(heads), 2)
    prepares = [fault.prepares and random.random() < 0.2 for fault, _ in pair]
    first = stage.where(lasting=pair[0][1], head=first_head, prepares=prepares[0])
    fixed = {"lasting": pair[1][1], "head": second_head, "prepares": prepares[1]}
    if random.random() < 0.5:
        index = first.index
    else:
        index = random.randrange(stage.per_epoch if prepares[1] else len(stage.plan))
    if prepares[1] and index >= stage.per_epoch:
        return None
    hosts = stage.plan[index]
    if random.random() < 0.4 and first.host in hosts:
        second = stage.where(index=index, host=first.host, **fixed)
    else:
        others = [host for host in hosts if host != first.host]
        if not others:
            return None
        second = stage.where(index=index, host=random.choice(others), **fixed)
    return first, second

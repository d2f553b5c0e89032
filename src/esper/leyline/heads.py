"""The eight action heads of the policy: names, choices, and which ops use them.

A head is one categorical output. `HEAD_NAMES` has the order of the columns of an action everywhere:
in the environment's `MultiDiscrete` space, in the policy's joint projection, in telemetry and on
screens.
"""

from enum import IntEnum
from typing import Final

HEAD_NAMES: Final = (
    "slot",
    "blueprint",
    "style",
    "tempo",
    "alpha_target",
    "alpha_speed",
    "alpha_curve",
    "op",
)


class Op(IntEnum):
    """Operation on one host in one step; the value is the choice of the `op` head."""

    WAIT = 0
    GERMINATE = 1
    ADVANCE = 2
    SET_ALPHA_TARGET = 3
    PRUNE = 4
    FOSSILIZE = 5


class Stage(IntEnum):
    """Stage of the seed in a slot; `esper.growth.hosts.seeds` has the transitions."""

    DORMANT = 0
    GERMINATED = 1
    TRAINING = 2
    BLENDING = 3
    HOLDING = 4
    FOSSILIZED = 5
    PRUNED = 6
    EMBARGOED = 7


SLOT_CHOICES: Final = ("early", "middle", "late")
BLUEPRINT_CHOICES: Final = (
    "norm",
    "depthwise",
    "pointwise",
    "conv",
    "bottleneck",
    "attention",
    "mlp",
    "low_rank",
)
STYLE_CHOICES: Final = ("linear_add", "linear_multiply", "sigmoid_add", "gated")
CURVE_CHOICES: Final = ("linear", "cosine", "sigmoid_gentle", "sigmoid", "sigmoid_steep")

#: Steps that the first blend of a seed takes, by choice of the `tempo` head.
TEMPO_STEPS: Final = (1, 3, 8)
#: Alpha that a seed is blended up to, by choice of the `alpha_target` head.
ALPHA_TARGETS: Final = (0.5, 0.7, 1.0)
#: Steps that a later change of alpha takes, by choice of the `alpha_speed` head; 0 is at once.
ALPHA_SPEED_STEPS: Final = (0, 3, 5, 8)

HEAD_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "slot": SLOT_CHOICES,
    "blueprint": BLUEPRINT_CHOICES,
    "style": STYLE_CHOICES,
    "tempo": tuple("1 step" if steps == 1 else f"{steps} steps" for steps in TEMPO_STEPS),
    "alpha_target": tuple(str(target) for target in ALPHA_TARGETS),
    "alpha_speed": tuple(f"{steps} steps" if steps else "instant" for steps in ALPHA_SPEED_STEPS),
    "alpha_curve": CURVE_CHOICES,
    "op": tuple(op.name for op in Op),
}
#: One line on each head; the chosen op determines which of the others are used.
HEAD_MEANINGS: Final[dict[str, str]] = {
    "op": "what to do with a network: wait, plant a seed (germinate), blend it in (advance), "
    "change how far it is blended, remove it (prune) or keep it for good (fossilize)",
    "slot": "which of the network's three places the op is about",
    "blueprint": "what kind of layer a new seed is",
    "style": "how the output of a seed is combined with the network's: added, multiplied or gated",
    "tempo": "how many steps a new seed takes to blend in",
    "alpha_target": "how far a seed is blended in, out of 1",
    "alpha_speed": "how many steps a later change of that takes",
    "alpha_curve": "along which curve it changes",
}
HEAD_SIZES: Final = tuple(len(HEAD_CHOICES[head]) for head in HEAD_NAMES)

#: The heads that each op uses; `op` itself is always used.
ACTIVE_HEADS: Final[dict[Op, frozenset[str]]] = {
    Op.WAIT: frozenset({"op"}),
    Op.GERMINATE: frozenset({"op", "slot", "blueprint", "style", "tempo", "alpha_target"}),
    Op.ADVANCE: frozenset({"op", "slot"}),
    Op.SET_ALPHA_TARGET: frozenset({"op", "slot", "alpha_target", "alpha_speed", "alpha_curve"}),
    Op.PRUNE: frozenset({"op", "slot", "alpha_speed", "alpha_curve"}),
    Op.FOSSILIZE: frozenset({"op", "slot"}),
}


def active_head_table() -> list[list[bool]]:
    """Return `ACTIVE_HEADS` as rows by op and columns in `HEAD_NAMES` order."""
    return [[head in ACTIVE_HEADS[op] for head in HEAD_NAMES] for op in Op]

"""A hand-written policy, as a baseline for the trained one.

It plants one seed in every slot as early as it can, blends in what is measured to help, takes out
what still harms after a fair trial, and makes everything permanent that has been blended in. Or it
does not judge, and blends in whatever it planted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from esper.leyline.heads import (
    ALPHA_TARGETS,
    BLUEPRINT_CHOICES,
    HEAD_NAMES,
    SLOT_CHOICES,
    STYLE_CHOICES,
    TEMPO_STEPS,
    Op,
)


@dataclass(frozen=True)
class Rule:
    """What the hand-written policy plants, and how patient it is.

    Attributes:
        blueprints: planted in each slot, in slot order.
        style: how seeds are blended in.
        alpha_target: how far, one of `ALPHA_TARGETS`.
        judges: whether a seed must be measured to help before it is blended in.
        trial: share of the episode that a seed trains before it is judged.
        patience: share of the episode after which a seed that does not help is pruned.
        latest: share of the episode after which nothing new is planted, as it could not finish.
    """

    blueprints: tuple[str, ...] = ("conv", "conv", "conv")
    style: str = "linear_add"
    alpha_target: float = max(ALPHA_TARGETS)
    judges: bool = True
    trial: float = 0.08
    patience: float = 0.25
    latest: float = 0.6


#: Rules that a person would try by hand; the best one is a baseline.
HAND_RULES: dict[str, Rule] = {
    "conv in every slot": Rule(),
    "conv in every slot, soon": Rule(trial=0.04),
    "conv in every slot, late": Rule(trial=0.16),
    "conv in every slot, multiplying": Rule(style="linear_multiply", trial=0.12),
    "conv in every slot, multiplying by half": Rule(
        style="linear_multiply", alpha_target=0.5, trial=0.12
    ),
    "conv in every slot, unjudged": Rule(judges=False, trial=0.0),
    "conv in every slot, multiplying, unjudged": Rule(
        style="linear_multiply", judges=False, trial=0.0
    ),
    "conv, conv, depthwise, multiplying": Rule(
        blueprints=("conv", "conv", "depthwise"), style="linear_multiply", trial=0.04
    ),
    "conv, then normalisers": Rule(blueprints=("conv", "norm", "norm")),
    "normaliser in every slot": Rule(blueprints=("norm", "norm", "norm")),
    "multiplying normaliser in every slot": Rule(
        blueprints=("norm", "norm", "norm"), style="linear_multiply"
    ),
    "MLP in every slot": Rule(blueprints=("mlp", "mlp", "mlp")),
    "attention, conv, MLP": Rule(blueprints=("attention", "conv", "mlp")),
    "conv, conv, MLP": Rule(blueprints=("conv", "conv", "mlp")),
    "bottleneck in every slot": Rule(blueprints=("bottleneck",) * 3),
}


class HeuristicPolicy:
    """Decides by a rule.

    Args:
        features: the names of the observation's entries, in order.
        rule: what to plant and how patiently.
    """

    def __init__(self, features: Sequence[str], rule: Rule | None = None) -> None:
        self._column = {name: column for column, name in enumerate(features)}
        self._rule = rule or Rule()

    def act(self, observations: np.ndarray, slot_mask_by_op: np.ndarray) -> np.ndarray:
        """Return one action per host.

        Args:
            observations: `[N, F]`.
            slot_mask_by_op: the slots that each op may act on, `[N, ops, slots]`.

        Returns:
            `[N, H]`, int64, in the order of `HEAD_NAMES`.
        """
        hosts = zip(observations, slot_mask_by_op, strict=True)
        return np.stack([self._decide(seen, slots) for seen, slots in hosts])

    def _decide(self, seen: np.ndarray, slots_by_op: np.ndarray) -> np.ndarray:
        """Return the first of the rule's reasons to act that holds, for one host, `[H]`."""
        rule = self._rule

        def feature(slot: int, name: str) -> float:
            return float(seen[self._column[f"{SLOT_CHOICES[slot]}.{name}"]])

        def slots_for(op: Op) -> list[int]:
            slots: list[int] = np.flatnonzero(slots_by_op[op]).tolist()
            return slots

        for slot in slots_for(Op.FOSSILIZE):
            return _action(Op.FOSSILIZE, slot=slot)
        in_training = slots_for(Op.ADVANCE)
        judged = [slot for slot in in_training if feature(slot, "stage_steps") >= rule.trial]
        helping = [slot for slot in judged if not rule.judges or feature(slot, "gain") > 0]
        if helping:
            best = max(helping, key=lambda slot: feature(slot, "gain"))
            return _action(Op.ADVANCE, slot=best)
        for slot in judged:
            if feature(slot, "stage_steps") >= rule.patience:
                return _action(Op.PRUNE, slot=slot)
        if seen[self._column["progress"]] <= rule.latest:
            for slot in slots_for(Op.GERMINATE):
                return _action(
                    Op.GERMINATE,
                    slot=slot,
                    blueprint=BLUEPRINT_CHOICES.index(rule.blueprints[slot]),
                    style=STYLE_CHOICES.index(rule.style),
                    tempo=TEMPO_STEPS.index(min(TEMPO_STEPS)),
                    alpha_target=ALPHA_TARGETS.index(rule.alpha_target),
                )
        return _action(Op.WAIT)


def _action(op: Op, **choices: int) -> np.ndarray:
    """Return an action `[H]`; heads that are not named, and do not matter then, are 0."""
    return np.array([choices.get(head, 0) for head in HEAD_NAMES[:-1]] + [int(op)])

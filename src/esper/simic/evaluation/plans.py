"""Plans: growth that is fixed in advance and does not depend on observations of the host.

A plan names a seed for some slots, and the steps at which each is germinated and advanced. Seeds
are fossilized whenever nothing else is due. The opponents are the plan that an agent follows most
often, and plans drawn at random.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from esper.growth.from_scratch import Architecture
from esper.growth.hosts.seeds import EMPTY
from esper.leyline.heads import (
    ALPHA_TARGETS,
    BLUEPRINT_CHOICES,
    HEAD_NAMES,
    SLOT_CHOICES,
    STYLE_CHOICES,
    TEMPO_STEPS,
    Op,
)
from esper.simic.evaluation.arena import Decide, Player

_COLUMN = {name: column for column, name in enumerate(HEAD_NAMES)}
_OF_A_SEED = ("slot", "blueprint", "style", "tempo", "alpha_target")


@dataclass(frozen=True)
class PlannedSeed:
    """One seed of a plan; all choices are those of the heads of the same names.

    Attributes:
        slot, blueprint, style, tempo, alpha_target: choices of its germination.
        germinate_at, advance_at: first steps at which it is germinated and advanced, from 0.
    """

    slot: int
    blueprint: int
    style: int
    tempo: int
    alpha_target: int
    germinate_at: int = 0
    advance_at: int = 0


Plan = tuple[PlannedSeed, ...]


def plan_words(plan: Plan) -> str:
    """Return a plan in words, its seeds in the order of their slots."""
    return (
        ", ".join(
            f"{SLOT_CHOICES[seed.slot]} {BLUEPRINT_CHOICES[seed.blueprint]} "
            f"{STYLE_CHOICES[seed.style]} {ALPHA_TARGETS[seed.alpha_target]:g}"
            for seed in sorted(plan, key=lambda seed: seed.slot)
        )
        or "nothing grows"
    )


def plan_player(plans: Callable[[int, int], Sequence[Plan]]) -> Player:
    """Return a player that follows plans.

    Args:
        plans: returns the plan of each host, from the number of hosts and of the batch.
    """

    def begin(hosts: int, batch: int) -> Decide:
        of_host = plans(hosts, batch)
        step = -1

        def decide(_observations: np.ndarray, info: dict[str, Any]) -> np.ndarray:
            nonlocal step
            step += 1
            legal = info["slot_mask_by_op"]
            return np.stack(
                [_due(plan, legal[host], step) for host, plan in enumerate(of_host)],
            )

        return decide

    return begin


def fixed_plan_player(plan: Plan) -> Player:
    """Return a player that follows the same plan in every host."""
    return plan_player(lambda hosts, _batch: [plan] * hosts)


def _due(plan: Plan, legal: np.ndarray, step: int) -> np.ndarray:
    """Return the action that a plan makes next, `[H]`; `legal` is `[ops, S]`."""
    waiting = [
        (at, -op, seed)
        for seed in plan
        for op, at in ((Op.ADVANCE, seed.advance_at), (Op.GERMINATE, seed.germinate_at))
        if at <= step and legal[op, seed.slot]
    ]
    action = np.zeros(len(HEAD_NAMES), dtype=np.int64)
    if waiting:
        _, op, seed = min(waiting, key=lambda due: due[:2])
        action[[_COLUMN[name] for name in _OF_A_SEED]] = [getattr(seed, n) for n in _OF_A_SEED]
        action[_COLUMN["op"]] = -op
    elif (slots := np.flatnonzero(legal[Op.FOSSILIZE])).size:
        action[_COLUMN["slot"]] = slots[0]
        action[_COLUMN["op"]] = Op.FOSSILIZE
    return action


def random_plan(generator: np.random.Generator) -> Plan:
    """Draw a seed for every slot, each blended in as soon as possible."""
    return tuple(
        PlannedSeed(
            slot,
            blueprint=int(generator.integers(len(BLUEPRINT_CHOICES))),
            style=int(generator.integers(len(STYLE_CHOICES))),
            tempo=TEMPO_STEPS.index(min(TEMPO_STEPS)),
            alpha_target=int(generator.integers(len(ALPHA_TARGETS))),
        )
        for slot in range(len(SLOT_CHOICES))
    )


class PlanRecorder:
    """Records which plans a player follows.

    Args:
        player: the player.
    """

    def __init__(self, player: Player) -> None:
        self._player = player
        self._seeds: list[dict[int, PlannedSeed]] = []  # of each host, by slot

    def __call__(self, hosts: int, batch: int) -> Decide:
        """Begin a batch of episodes, as a `Player`."""
        inner = self._player(hosts, batch)
        own: list[dict[int, PlannedSeed]] = [{} for _ in range(hosts)]
        self._seeds += own
        step = -1

        def decide(observations: np.ndarray, info: dict[str, Any]) -> np.ndarray:
            nonlocal step
            step += 1
            actions = inner(observations, info)
            for seeds, action, legal in zip(own, actions, info["slot_mask_by_op"], strict=True):
                choice = dict(zip(HEAD_NAMES, action.tolist(), strict=True))
                slot, op = choice["slot"], choice["op"]
                if op == Op.GERMINATE and legal[op, slot]:
                    chosen = {name: choice[name] for name in _OF_A_SEED}
                    seeds[slot] = PlannedSeed(**chosen, germinate_at=step)
                elif op == Op.ADVANCE and legal[op, slot]:
                    seeds[slot] = replace(seeds[slot], advance_at=step)
            return actions

        return decide

    def most_frequent(self, architecture: Architecture) -> tuple[Plan, int]:
        """Return the most frequent plan of all recorded hosts, and how many followed it.

        Two hosts follow the same plan if the same seeds were germinated in the same order and
        became FOSSILIZED. Its steps are the medians over those hosts. Later changes of alpha are
        not part of a plan.

        Args:
            architecture: of the networks that the recorded episodes ended with.
        """
        stays = architecture.blueprint != EMPTY
        plans = []
        for host, seeds in enumerate(self._seeds):
            kept = [seed for slot, seed in seeds.items() if stays[host, slot]]
            plans.append(tuple(sorted(kept, key=lambda seed: seed.germinate_at)))
        ((kind, count),) = Counter(map(_kind, plans)).most_common(1)
        same = [plan for plan in plans if _kind(plan) == kind]
        return tuple(map(_median, zip(*same, strict=True))), count


def _kind(plan: Plan) -> Plan:
    """Return a plan without its steps."""
    return tuple(replace(seed, germinate_at=0, advance_at=0) for seed in plan)


def _median(seeds: Sequence[PlannedSeed]) -> PlannedSeed:
    return replace(
        seeds[0],
        germinate_at=round(float(np.median([seed.germinate_at for seed in seeds]))),
        advance_at=round(float(np.median([seed.advance_at for seed in seeds]))),
    )

"""Apply actions: the choices of the policy become events of seeds."""

import numpy as np

from esper.growth.hosts import seeds as life
from esper.growth.hosts.population import Population, join, plant_seed
from esper.growth.hosts.seeds import Seeds, Transition
from esper.leyline.heads import ALPHA_SPEED_STEPS, ALPHA_TARGETS, HEAD_NAMES, TEMPO_STEPS, Op


def illegal_actions(actions: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Return the hosts whose action has an op that is illegal on its slot. `[N]`, bool

    Args:
        actions: choices of each head. `[N, 8]`
        legal: from `masks.legal_slots`. `[N, ops, S]`
    """
    ops, slots = actions[:, HEAD_NAMES.index("op")], actions[:, HEAD_NAMES.index("slot")]
    allowed: np.ndarray = legal[np.arange(len(actions)), ops, slots]
    return ~allowed


def apply_actions(
    population: Population, seeds: Seeds, actions: np.ndarray, hosts: np.ndarray
) -> list[Transition]:
    """Apply the actions of the given hosts; all of them must be legal.

    Args:
        population: changed in place: new seeds are initialised, joining ones age the moments.
        seeds: the state of every slot, changed in place.
        actions: choices of each head. `[N, 8]`
        hosts: numbers of the hosts to act on. `[n]`

    Returns:
        The transitions, in the order of the hosts.
    """
    done = []
    for host in hosts:
        choice = dict(zip(HEAD_NAMES, (int(value) for value in actions[host]), strict=True))
        transition = _apply_action(population, seeds, int(host), choice)
        if transition is not None:
            done.append(transition)
    return done


def _apply_action(
    population: Population, seeds: Seeds, host: int, choice: dict[str, int]
) -> Transition | None:
    slot = choice["slot"]
    target = ALPHA_TARGETS[choice["alpha_target"]]
    length, curve = ALPHA_SPEED_STEPS[choice["alpha_speed"]], choice["alpha_curve"]
    match Op(choice["op"]):
        case Op.WAIT:
            return None
        case Op.GERMINATE:
            transition = life.germinate(
                seeds,
                host,
                slot,
                blueprint=choice["blueprint"],
                style=choice["style"],
                tempo=TEMPO_STEPS[choice["tempo"]],
                target=target,
            )
            count = int(seeds.germinations[host, slot])
            plant_seed(population, host, slot, choice["blueprint"], count)
            return transition
        case Op.ADVANCE:
            transition = life.advance(seeds, host, slot)
            join(population, host)
            return transition
        case Op.SET_ALPHA_TARGET:
            return life.set_alpha_target(
                seeds, host, slot, target=target, length=length, curve=curve
            )
        case Op.PRUNE:
            return life.prune(seeds, host, slot, length=length, curve=curve)
        case Op.FOSSILIZE:
            return life.fossilize(seeds, host, slot)

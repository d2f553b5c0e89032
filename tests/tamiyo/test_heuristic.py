"""The hand-written policy: legal, patient, and better than never growing."""

from collections.abc import Callable

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.observation import FEATURES
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op, Stage
from esper.tamiyo.heuristic import HeuristicPolicy, Rule

NAMES = [feature.name for feature in FEATURES]
Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mean_score(policy: Policy, hosts: int = 8) -> float:
    env = GrowthVectorEnv(hosts, autoreset_mode=AutoresetMode.DISABLED)
    seen, info = env.reset(seed=list(range(hosts)))
    over = False
    while not over:
        seen, _, terminated, _, info = env.step(policy(seen, info["slot_mask_by_op"]))
        assert info["illegal"].sum() == 0
        over = bool(terminated.all())
    return float(info["score"].mean())


def test_it_grows_better_networks_than_never_growing() -> None:
    waiting = mean_score(lambda seen, _: np.zeros((len(seen), len(HEAD_SIZES)), dtype=np.int64))
    assert mean_score(HeuristicPolicy(NAMES).act) > waiting + 0.03


class Situation:
    """What a policy is shown of one host, made by hand."""

    def __init__(self, **features: float) -> None:
        self.seen = np.zeros((1, len(NAMES)), dtype=np.float32)
        self.slots = np.zeros((1, len(Op), HEAD_SIZES[0]), dtype=bool)
        self.slots[:, Op.WAIT] = True
        for name, value in features.items():
            self.seen[0, NAMES.index(name)] = value

    def put(self, slot: str, name: str, value: float) -> "Situation":
        self.seen[0, NAMES.index(f"{slot}.{name}")] = value
        return self

    def allow(self, op: Op, slot: int) -> "Situation":
        self.slots[0, op, slot] = True
        return self

    def answer(self, rule: Rule | None = None) -> dict[str, int]:
        (action,) = HeuristicPolicy(NAMES, rule).act(self.seen, self.slots)
        return dict(zip(HEAD_NAMES, action.tolist(), strict=True))


@pytest.mark.parametrize(("target", "choice"), [(0.5, 0), (0.7, 1), (1.0, 2)])
def test_it_blends_in_as_far_as_the_rule_says(target: float, choice: int) -> None:
    planted = Situation().allow(Op.GERMINATE, 1).answer(Rule(alpha_target=target))
    assert (planted["op"], planted["alpha_target"]) == (Op.GERMINATE, choice)


def test_it_plants_what_the_rule_says_while_there_is_time() -> None:
    rule = Rule(blueprints=("norm", "mlp", "conv"))
    early = Situation(progress=0.1).allow(Op.GERMINATE, 1).answer(rule)
    assert (early["op"], early["slot"], early["blueprint"]) == (Op.GERMINATE, 1, 6)
    assert Situation(progress=0.9).allow(Op.GERMINATE, 1).answer(rule)["op"] == Op.WAIT


def test_it_advances_the_seed_that_helps_most_and_prunes_what_never_does() -> None:
    situation = Situation().allow(Op.ADVANCE, 0).allow(Op.ADVANCE, 2)
    for slot, gain in (("early", 0.1), ("late", 0.3)):
        situation.put(slot, "stage_steps", 0.1).put(slot, "gain", gain)
    answer = situation.answer()
    assert (answer["op"], answer["slot"]) == (Op.ADVANCE, 2)

    harmful = Situation().allow(Op.ADVANCE, 1).put("middle", "gain", -0.2)
    assert harmful.put("middle", "stage_steps", 0.1).answer()["op"] == Op.WAIT
    assert harmful.put("middle", "stage_steps", 0.3).answer()["op"] == Op.PRUNE


def test_it_makes_permanent_what_holds() -> None:
    answer = Situation().allow(Op.FOSSILIZE, 2).allow(Op.GERMINATE, 0).answer()
    assert (answer["op"], answer["slot"]) == (Op.FOSSILIZE, 2)
    assert Stage.HOLDING.name in "".join(NAMES)


def test_a_feature_it_needs_and_does_not_find_is_named() -> None:
    with pytest.raises(KeyError, match="progress"):
        HeuristicPolicy([]).act(np.zeros((1, 0)), Situation().slots)

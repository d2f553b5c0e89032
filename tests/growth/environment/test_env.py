"""The environment as Gymnasium's users meet it."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from esper.growth.environment.env import EnvironmentSettingsError, GrowthVectorEnv
from esper.growth.environment.masks import action_mask
from esper.growth.environment.observation import FEATURES
from esper.growth.environment.reward import REWARD_TERMS, RewardSettings
from esper.growth.environment.single_env import GrowthEnv
from esper.growth.tasks.loading import Task, UnknownTaskError
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_SIZES, SLOT_CHOICES, Op, Stage

STEPS = 7


@pytest.fixture
def env(small_task: Callable[..., Task]) -> Callable[..., GrowthVectorEnv]:
    """Makes environments of a small task with short episodes."""

    def make(hosts: int = 3, mode: AutoresetMode = AutoresetMode.DISABLED, **more: Any) -> Any:
        task = small_task(dtype=torch.float32)
        settings = {"task": task, "steps": STEPS, "batch": 8, "batches": 2} | more
        return GrowthVectorEnv(hosts, autoreset_mode=mode, **settings)

    return make


def feature(observation: np.ndarray, name: str) -> np.ndarray:
    """Return one feature of every host. `[N]`"""
    return observation[:, [known.name for known in FEATURES].index(name)]


def legal_actions(info: dict[str, Any], generator: np.random.Generator) -> np.ndarray:
    """Return a random legal action for each host. `[N, 8]`"""
    chosen = []
    for legal in info["slot_mask_by_op"]:
        op = generator.choice(np.flatnonzero(legal.any(axis=1)))
        action = [int(generator.integers(size)) for size in HEAD_SIZES]
        action[0], action[-1] = int(generator.choice(np.flatnonzero(legal[op]))), int(op)
        chosen.append(action)
    return np.array(chosen)


def play(env: GrowthVectorEnv, steps: int, **reset: Any) -> list[Any]:
    """Return everything that random legal play gives, step by step."""
    generator = np.random.default_rng(0)
    observation, info = env.reset(**reset)
    story: list[Any] = [(observation, info)]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(legal_actions(info, generator))
        story.append((observation, reward, terminated, truncated, info))
    return story


def assert_same(left: Any, right: Any) -> None:
    """Assert equality bit for bit, through containers."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, np.ndarray) and left.dtype == object:
        assert_same(list(left), list(right))
    else:
        np.testing.assert_array_equal(left, right)


def test_make_vec_makes_it() -> None:
    made = gymnasium.make_vec("esper/Growth-v0", num_envs=2, task="digits", steps=2)
    observation, info = made.reset(seed=1)
    assert made.observation_space.contains(observation)
    assert info["action_mask"].shape == (2, sum(HEAD_SIZES))
    assert made.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    made.close()


def test_importing_growth_loads_no_torch() -> None:
    code = "import esper.growth, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_step_keeps_the_promises_of_spaces_and_infos(
    env: Callable[..., GrowthVectorEnv],
) -> None:
    ours = env(hosts=4, reward=RewardSettings(rent=0.5))
    assert ours.single_action_space.nvec.tolist() == list(HEAD_SIZES)
    for number, event in enumerate(play(ours, STEPS, seed=5)):
        observation, info = event[0], event[-1]
        assert observation.dtype == np.float32
        assert ours.observation_space.contains(observation)
        assert info["slot_mask_by_op"].shape == (4, 6, 3)
        np.testing.assert_array_equal(info["action_mask"], action_mask(info["slot_mask_by_op"]))
        assert (info["parameters"] >= ours.host_parameters).all()
        empty = np.isin(info["stage"], (Stage.DORMANT, Stage.EMBARGOED))
        np.testing.assert_array_equal(info["blueprint"] == -1, empty)
        np.testing.assert_allclose(feature(observation, "accuracy"), info["accuracy"], rtol=1e-6)
        if number == 0:
            continue
        _, reward, terminated, truncated, _ = event
        assert tuple(info["reward_terms"]) == REWARD_TERMS
        np.testing.assert_allclose(reward, sum(info["reward_terms"].values()))
        added = info["parameters"] - ours.host_parameters
        np.testing.assert_allclose(
            info["reward_terms"]["rent"], -0.5 * added / ours.host_parameters
        )
        assert (terminated == (number == STEPS)).all()
        assert not truncated.any()
        assert not info["illegal"].any()
        assert info["training_samples"] == 4 * 16


def test_the_horizon_ends_the_episode_and_scores_fossils_alone(
    env: Callable[..., GrowthVectorEnv], actions: Callable[..., np.ndarray]
) -> None:
    ours = env(hosts=2, steps=9, reward=RewardSettings(price=0.1))
    ours.reset(seed=3)
    conv, mlp = BLUEPRINT_CHOICES.index("conv"), BLUEPRINT_CHOICES.index("mlp")
    ours.step(actions(2, op=Op.GERMINATE, slot=0, blueprint=conv, alpha_target=2))
    ours.step(actions(2, op=Op.GERMINATE, slot=1, blueprint=mlp, alpha_target=2))
    ours.step(actions(2, op=Op.ADVANCE, slot=0))
    ours.step(actions(2, op=Op.ADVANCE, slot=1))
    for _ in range(2):
        *_, info = ours.step(actions(2))
    assert (info["stage"][:, :2] == Stage.HOLDING).all()
    ours.step(actions(2, op=[Op.FOSSILIZE, Op.WAIT], slot=0))
    ours.step(actions(2))
    _, _, terminated, _, info = ours.step(actions(2))
    assert terminated.all()
    assert info["fossilized"].tolist() == [1, 0]
    assert info["_score"].all()
    price = 0.1 * np.array([200, 0]) / ours.host_parameters
    np.testing.assert_allclose(info["score"], info["final_accuracy"] - price)
    np.testing.assert_array_equal(info["reward_terms"]["score"], info["score"])
    np.testing.assert_array_equal(info["parameters"] - ours.host_parameters, [752, 752])
    assert info["final_accuracy"][1] != info["accuracy"][1], "a blended seed counted"
    assert ours.test_accuracy().shape == (2,)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        ours.step(actions(2))


def test_an_illegal_action_becomes_wait_and_is_reported(
    env: Callable[..., GrowthVectorEnv], actions: Callable[..., np.ndarray]
) -> None:
    waiting, breaking = env(hosts=3), env(hosts=3)
    for ours in (waiting, breaking):
        ours.reset(seed=0)
    result = breaking.step(actions(3, op=[Op.FOSSILIZE, Op.WAIT, Op.PRUNE], slot=[0, 1, 2]))
    quiet = waiting.step(actions(3))
    assert result[-1]["illegal"].tolist() == [True, False, True]
    assert result[-1]["transitions"] == []
    np.testing.assert_array_equal(result[0], quiet[0])


def test_seeds_reproduce_everything_bit_for_bit(env: Callable[..., GrowthVectorEnv]) -> None:
    for mode, steps in ((AutoresetMode.DISABLED, STEPS), (AutoresetMode.SAME_STEP, 2 * STEPS + 2)):
        first = play(env(hosts=4, mode=mode), steps, seed=[9, 2, 7, 2])
        assert_same(first, play(env(hosts=4, mode=mode), steps, seed=[9, 2, 7, 2]))


def test_one_seed_stands_for_as_many_as_there_are_hosts(
    env: Callable[..., GrowthVectorEnv],
) -> None:
    assert_same(play(env(), STEPS, seed=4), play(env(), STEPS, seed=[4, 5, 6]))


def test_hosts_of_equal_seed_and_equal_action_live_the_same_life(
    env: Callable[..., GrowthVectorEnv], actions: Callable[..., np.ndarray]
) -> None:
    ours = env(hosts=3)
    ours.reset(seed=[8, 1, 8])
    for op in (Op.GERMINATE, Op.WAIT, Op.ADVANCE):
        observation, *_ = ours.step(actions(3, op=op, slot=1, blueprint=6, style=3))
    np.testing.assert_array_equal(observation[0], observation[2])
    assert (observation[0] != observation[1]).any()


def test_episodes_of_one_seed_differ_and_come_again(env: Callable[..., GrowthVectorEnv]) -> None:
    ours = env()
    first, _ = ours.reset(seed=1)
    second, _ = ours.reset()
    again, _ = ours.reset(seed=1)
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(second, ours.reset()[0])


def test_without_a_seed_two_environments_differ(env: Callable[..., GrowthVectorEnv]) -> None:
    one, other = env().reset()[0], env().reset()[0]
    assert (one != other).any()


def test_same_step_autoreset_keeps_the_end_of_the_old_episode(
    env: Callable[..., GrowthVectorEnv],
) -> None:
    ours, plain = env(mode=AutoresetMode.SAME_STEP), env()
    ended, reference = play(ours, STEPS, seed=2)[-1], play(plain, STEPS, seed=2)[-1]
    observation, reward, terminated, _, info = ended
    assert terminated.all()
    assert info["_final_obs"].all()
    assert info["_final_info"].all()
    np.testing.assert_array_equal(np.stack(list(info["final_obs"])), reference[0])
    np.testing.assert_array_equal(reward, reference[1])
    assert_same(info["final_info"], reference[-1])
    assert (feature(observation, "progress") == 0).all()
    assert (info["stage"] == Stage.DORMANT).all()
    assert (info["parameters"] == ours.host_parameters).all()
    np.testing.assert_array_equal(observation, plain.reset()[0])


def test_some_hosts_can_begin_again_alone(
    env: Callable[..., GrowthVectorEnv], actions: Callable[..., np.ndarray]
) -> None:
    ours = env()
    ours.reset(seed=2)
    before = ours.step(actions(3, op=Op.GERMINATE, slot=0))[0]
    mask = np.array([False, True, False])
    after, info = ours.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert info["stage"][:, 0].tolist() == [Stage.TRAINING, Stage.DORMANT, Stage.TRAINING]
    for _ in range(STEPS - 1):
        _, _, terminated, _, info = ours.step(actions(3))
    assert terminated.tolist() == [True, False, True]
    assert info["_score"].tolist() == [True, False, True]
    ours.reset(options={"reset_mask": terminated})
    *_, info = ours.step(actions(3))
    assert info["_score"].tolist() == [False, True, False]


def test_gymnasiums_own_wrappers_take_it(env: Callable[..., GrowthVectorEnv]) -> None:
    ours = env(mode=AutoresetMode.SAME_STEP)
    wrapped = RecordEpisodeStatistics(ours)
    wrapped.reset(seed=0)
    total = np.zeros(3)
    for _ in range(STEPS):
        _, reward, _, _, info = wrapped.step(ours.action_space.sample())
        total += reward
    np.testing.assert_allclose(info["episode"]["r"], total)
    assert (info["episode"]["l"] == STEPS).all()


def test_transitions_name_what_happened(
    env: Callable[..., GrowthVectorEnv], actions: Callable[..., np.ndarray]
) -> None:
    ours = env()
    ours.reset(seed=0)
    *_, info = ours.step(actions(3, op=[Op.WAIT, Op.GERMINATE, Op.WAIT], slot=2, blueprint=4))
    result = [(t.host, t.slot, t.blueprint, t.to_stage, str(t.cause)) for t in info["transitions"]]
    assert result == [
        (1, 2, 4, Stage.GERMINATED, "germinate"),
        (1, 2, 4, Stage.TRAINING, "begin"),
    ]


def test_the_gain_of_a_training_seed_is_observed(
    env: Callable[..., GrowthVectorEnv], actions: Callable[..., np.ndarray]
) -> None:
    ours = env()
    ours.reset(seed=0)
    conv = BLUEPRINT_CHOICES.index("conv")
    observation, *_ = ours.step(actions(3, op=Op.GERMINATE, slot=1, blueprint=conv))
    for name in ("gain", "training_gain"):
        assert (feature(observation, f"middle.{name}") != 0).all()
        assert (feature(observation, f"early.{name}") == 0).all()
    assert (feature(observation, "middle.blueprint.conv") == 1).all()
    assert (feature(observation, "middle.stage.TRAINING") == 1).all()


def test_features_are_documented_and_named_once() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(set(names)) == len(names)
    assert all(feature.meaning and feature.low < feature.high for feature in FEATURES)
    assert {name.split(".")[0] for name in names if "." in name} == set(SLOT_CHOICES)


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"task": "mnist"}, UnknownTaskError, "the tasks are"),
        ({"steps": 0}, EnvironmentSettingsError, "steps is 0"),
        ({"num_envs": 0}, EnvironmentSettingsError, "num_envs is 0"),
        ({"autoreset_mode": "NextStep"}, EnvironmentSettingsError, "SAME_STEP or DISABLED"),
    ],
)
def test_bad_settings_get_one_sentence(
    settings: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        GrowthVectorEnv(**settings)


@pytest.mark.parametrize("seed", [[1, 2], -1, [0, -3, 1]])
def test_bad_seeds_get_one_sentence(env: Callable[..., GrowthVectorEnv], seed: Any) -> None:
    with pytest.raises(EnvironmentSettingsError, match="seed"):
        env().reset(seed=seed)


def test_actions_outside_the_space_are_refused(
    env: Callable[..., GrowthVectorEnv], actions: Callable[..., np.ndarray]
) -> None:
    ours = env()
    ours.reset(seed=0)
    for wrong in (actions(2), actions(3, op=6), actions(3, slot=-1), actions(3) + 0.5):
        with pytest.raises(gymnasium.error.InvalidAction, match="each column from 0"):
            ours.step(wrong)


def test_the_single_environment_takes_the_settings_of_the_vector_environment() -> None:
    many = dict(inspect.signature(GrowthVectorEnv).parameters)
    del many["num_envs"], many["autoreset_mode"]
    assert dict(inspect.signature(GrowthEnv).parameters) == many

"""The environment in the libraries that people use: Gymnasium, Stable-Baselines3, a plain loop."""

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import esper.growth
from esper.growth.environment.env import EnvironmentSettingsError, GrowthVectorEnv
from esper.growth.environment.single_env import GrowthEnv
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op

ID = esper.growth.ENVIRONMENT_ID
SMALL: dict[str, Any] = {"task": "digits", "steps": 3, "batch": 20, "batches": 2}


def make(**changes: Any) -> gymnasium.Env[np.ndarray, np.ndarray]:
    return gymnasium.make(ID, **(SMALL | changes))


def play(env: gymnasium.Env[np.ndarray, np.ndarray], steps: int) -> list[Any]:
    env.action_space.seed(1)
    history: list[Any] = [env.reset(seed=5)[0]]
    for _ in range(steps):
        observation, reward, terminated, _, info = env.step(env.action_space.sample())
        history += [observation, reward, info["accuracy"]]
        if terminated:
            history.append(env.reset()[0])
    return history


def test_checkers_find_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(GrowthEnv(**SMALL), skip_render_check=True)
        check_env_of_sb3(GrowthEnv(**SMALL))
    with make() as env:
        check_env(env.unwrapped, skip_render_check=True)


def test_one_host_lives_as_one_of_many_does() -> None:
    many = GrowthVectorEnv(2, **SMALL, autoreset_mode=AutoresetMode.DISABLED)
    actions = np.zeros((3, 2, 8), dtype=np.int64)
    actions[0, :, HEAD_NAMES.index("op")] = Op.GERMINATE
    observations, info = many.reset(seed=[3, 5])
    with make() as one:
        observation, single = one.reset(seed=5)
        np.testing.assert_allclose(observation, observations[1], atol=1e-6)
        for step in range(3):
            observations, rewards, terminated, _, info = many.step(actions[step])
            observation, reward, over, truncated, single = one.step(actions[step][1])
            np.testing.assert_allclose(observation, observations[1], atol=1e-5)
            assert reward == pytest.approx(rewards[1], abs=1e-5)
            assert (over, truncated) == (bool(terminated[1]), False)
            np.testing.assert_array_equal(single["action_mask"], info["action_mask"][1])
            np.testing.assert_array_equal(single["stage"], info["stage"][1])
            assert sum(single["reward_terms"].values()) == pytest.approx(reward)
        assert over
        assert single["score"] == pytest.approx(info["score"][1], abs=1e-5)
        assert not [key for key in single if key.startswith("_")]
        with pytest.raises(gymnasium.error.ResetNeeded):
            one.step(actions[0][1])
    assert info["accuracy"].shape == (2,)


def test_a_seed_repeats_an_environment() -> None:
    first, second = play(make(), 7), play(make(), 7)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_options_that_are_not_known_are_refused() -> None:
    with pytest.raises(EnvironmentSettingsError, match="reset has no option 'reset_mask'"):
        make().reset(options={"reset_mask": [True]})
    with pytest.raises(EnvironmentSettingsError, match="threads is 0: it must be at least 1"):
        make(threads=0)


@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point", None])
def test_vectors_of_every_mode_run_and_restart(mode: str | None) -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, **SMALL)
    try:
        observations, _ = envs.reset(seed=3)
        envs.action_space.seed(0)
        ended = np.zeros(2, dtype=int)
        for _ in range(9):
            observations, rewards, terminated, truncated, info = envs.step(
                envs.action_space.sample()
            )
            assert envs.observation_space.contains(observations)
            assert rewards.shape == terminated.shape == (2,)
            assert not truncated.any()
            assert info["action_mask"].shape == (2, sum(HEAD_SIZES))
            ended += terminated
        assert (ended >= 2).all()
    finally:
        envs.close()


def test_vectors_of_both_kinds_give_the_same() -> None:
    histories = []
    for mode in ("sync", "vector_entry_point"):
        envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, **SMALL)
        envs.action_space.seed(0)
        history = [envs.reset(seed=3)[0]]
        # after the third step the two kinds restart differently
        history += [envs.step(envs.action_space.sample())[0] for _ in range(2)]
        histories.append(np.stack(history))
        envs.close()
    np.testing.assert_allclose(*histories, atol=1e-5)


#: stable-baselines3 first makes every environment with render_mode="rgb_array"; Gymnasium warns if
#: an environment draws no pictures.
_SB3_ASKS_FOR_PICTURES = pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array':UserWarning")


@_SB3_ASKS_FOR_PICTURES
def test_sb3_trains_by_name() -> None:
    model = PPO("MlpPolicy", ID, n_steps=4, batch_size=4, n_epochs=1, seed=0)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(8)
    assert model.num_timesteps == 8
    changed = [not a.equal(b) for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert any(changed)


@_SB3_ASKS_FOR_PICTURES
@pytest.mark.parametrize("in_processes", [False, True])
def test_sb3_makes_vectors(in_processes: bool) -> None:
    envs = make_vec_env(
        f"esper.growth:{ID}" if in_processes else ID,
        n_envs=2,
        env_kwargs=SMALL,
        vec_env_cls=SubprocVecEnv if in_processes else None,
        seed=0,
    )
    try:
        model = PPO("MlpPolicy", envs, n_steps=4, batch_size=8, n_epochs=1)
        model.learn(16)
        assert model.num_timesteps == 16
        assert {info["l"] for info in model.ep_info_buffer or ()} == {3}
        assert get_action_masks(envs).shape == (2, sum(HEAD_SIZES))
    finally:
        envs.close()


def test_maskable_ppo_chooses_nothing_that_no_slot_allows() -> None:
    env = make()
    model = MaskablePPO("MlpPolicy", env, n_steps=6, batch_size=6, n_epochs=1, seed=0)
    model.learn(12)
    bounds = np.cumsum([0, *HEAD_SIZES])
    observation, info = env.reset(seed=1)
    for _ in range(3):
        masks = env.get_wrapper_attr("action_masks")()
        np.testing.assert_array_equal(masks, info["action_mask"])
        action, _ = model.predict(observation, action_masks=masks)
        assert all(masks[first + choice] for first, choice in zip(bounds, action, strict=False))
        observation, *_, info = env.step(action)


class Agent(torch.nn.Module):
    """One layer for the choices of all heads and the value, as in a CleanRL script."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        super().__init__()
        size = int(np.prod(envs.single_observation_space.shape or ()))
        self.actor = torch.nn.Linear(size, sum(envs.single_action_space.nvec))
        self.critic = torch.nn.Linear(size, 1)

    def choose(
        self, observation: torch.Tensor, mask: torch.Tensor, action: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = self.actor(observation).masked_fill(~mask, -1e8).split(list(HEAD_SIZES), dim=1)
        heads = [torch.distributions.Categorical(logits=each) for each in logits]
        if action is None:
            action = torch.stack([head.sample() for head in heads], dim=1)
        log_prob = sum(
            (head.log_prob(choice) for head, choice in zip(heads, action.T, strict=True)),
            start=torch.zeros(len(action)),
        )
        return action, log_prob, self.critic(observation).flatten()


@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_a_loop_in_the_manner_of_cleanrl(mode: str) -> None:
    torch.manual_seed(0)
    envs: VectorEnv[Any, Any, Any] = gymnasium.make_vec(
        ID, num_envs=2, vectorization_mode=mode, **SMALL
    )
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters())
    observations, info = envs.reset(seed=0)
    lengths: list[int] = []
    for _ in range(2):
        kept = []
        for _ in range(6):
            inputs, mask = torch.tensor(observations), torch.tensor(info["action_mask"])
            with torch.no_grad():
                action, log_prob, value = agent.choose(inputs, mask)
            observations, rewards, *_, info = envs.step(action.numpy())
            kept.append((inputs, mask, action, log_prob, torch.tensor(rewards).float() - value))
            finished = info if "episode" in info else info.get("final_info", {})
            if "episode" in finished:
                lengths += finished["episode"]["l"][finished["_episode"]].tolist()
        inputs, mask, action, old, advantage = (torch.cat(each) for each in zip(*kept, strict=True))
        _, new, value = agent.choose(inputs, mask, action)
        loss = -((new - old).exp() * advantage).mean() + (value - advantage).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert lengths
    assert set(lengths) == {3}
    envs.close()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("threads", "seen"), [(1, 1), (2, 2), (None, 2)])
def test_one_thread_unless_asked(
    threads: int | None, seen: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[int] = set()

    def watch(function: Any) -> Any:
        def watched(*arguments: Any) -> Any:
            used.add(torch.get_num_threads())
            return function(*arguments)

        return watched

    for name in ("train_and_measure", "begin_episodes", "measure_finished", "predict"):
        monkeypatch.setattr(
            f"esper.growth.environment.env.{name}",
            watch(getattr(esper.growth.environment.env, name)),
        )
    given = {} if threads == 1 else {"threads": threads}
    env = GrowthVectorEnv(2, **SMALL, **given)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros((2, 8), dtype=np.int64))
    env.test_accuracy()
    env.test_logits()
    assert used == {seen}
    assert torch.get_num_threads() == 2

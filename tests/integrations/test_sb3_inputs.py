"""Bad values from environments of Stable-Baselines3 are reported with environment and step."""

from contextlib import suppress

import gymnasium
import numpy as np
import pytest
import torch
from sb3_faults import INF, NAN, Planted
from sb3_models import ALGORITHMS, DISCRETE, ROLLOUT, build
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import esper
from esper.integrations.sb3 import EsperCallback
from esper.watching.agreement import NonfiniteHalt

pytestmark = [
    pytest.mark.usefixtures("quiet_and_alone"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
]


class Sensor(gymnasium.Env):
    """Truncated episodes of 10 steps; one observation or reward is wrong.

    Args:
        space: of the actions.
        at: number of the step, counted from 1 over all episodes; 0 for never.
        observation: the second number of the observation there; None for a right one.
        reward: there; None for a right one.
    """

    def __init__(self, space, at=0, observation=None, reward=None):
        self.action_space = space
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (4,), np.float32)
        self._at, self._wrong, self._reward = at, observation, reward
        self._random = np.random.default_rng(7)
        self._step = 0

    def reset(self, *, seed=None, options=None):
        return self._random.normal(size=4).astype(np.float32), {}

    def step(self, action):
        self._step += 1
        seen, reward = self._random.normal(size=4).astype(np.float32), 1.0
        if self._step == self._at:
            if self._wrong is not None:
                seen[1] = self._wrong
            reward = 1.0 if self._reward is None else self._reward
        return seen, reward, False, self._step % 10 == 0, {}

    def action_masks(self):
        return np.ones(self.action_space.n, bool)


def trained(folder, name, envs, *, steps=3 * ROLLOUT, normalize=False, **options):
    """Train in several environments under a watch; return the watch."""
    space = ALGORITHMS[name][3][0]
    env = DummyVecEnv([lambda settings=settings: Sensor(space, **settings) for settings in envs])
    model = build(name, space, VecNormalize(env) if normalize else env)
    callback = EsperCallback(run_dir=folder, **options)
    with suppress(ValueError):
        model.learn(steps, callback=callback)
    assert callback.watch.failures == 0, callback.watch.last_failure
    return callback.watch


def incidents(watch):
    """Return quantity, environment and step of each incident's findings."""
    return [
        [(one.quantity, one.environment, one.step) for one in trouble.explanation.found]
        for trouble in watch.troubles
    ]


@pytest.mark.parametrize("name", ["PPO", "A2C", "MaskablePPO", "RecurrentPPO"])
def test_a_bad_terminal_observation_is_reported_instead_of_the_affected_reward(name, tmp_path):
    watch = trained(tmp_path, name, [{}, {"at": 40, "observation": NAN}], steps=6 * ROLLOUT)

    assert incidents(watch) == [[("terminal_observation[1]", 1, 40)]]
    origin = watch.troubles[0].explanation.origin
    assert origin is not None
    assert origin.cause.startswith("poisoned input: variable rollout_data.")


def test_the_last_observation_of_a_rollout_is_reported_instead_of_the_advantages(tmp_path):
    watch = trained(tmp_path, "PPO", [{"at": ROLLOUT, "observation": NAN}])

    assert incidents(watch) == [[("new_obs[1]", 0, ROLLOUT)]]
    assert watch.troubles[0].phase == "update"


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "VecNormalize"])
def test_an_observation_has_environment_and_step_and_keeps_its_operation(normalize, tmp_path):
    envs = [{}, {"at": 5, "observation": NAN}, {}]

    watch = trained(tmp_path, "PPO", envs, normalize=normalize)

    assert incidents(watch) == [[("obs_tensor", 1, 5)]]
    assert watch.troubles[0].explanation.origin.operation.base == "addmm"
    (row,) = esper.open_run(run_dir=tmp_path).evidence
    assert (row.first_phase, row.first_host, row.first_step) == ("environment", 1, 5)


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("PPO", {"reward": INF}, "rewards"),
        ("DQN", {"reward": NAN}, "rewards"),
        ("DQN", {"observation": NAN}, "new_obs[1]"),  # actions are still drawn at random
    ],
)
def test_bad_values_in_a_buffer_are_reported_with_their_environment(
    name, wrong, expected, tmp_path
):
    watch = trained(tmp_path, name, [{"at": 7, **wrong}])

    assert incidents(watch)[0] == [(expected, 0, 7)]
    assert watch.troubles[0].explanation.origin is not None


def test_unused_bad_values_are_reported_when_training_ends(tmp_path):
    watch = trained(tmp_path, "DQN", [{"at": 6, "reward": NAN}], steps=7)

    assert incidents(watch) == [[("rewards", 0, 6)]]
    (incident,) = esper.open_run(run_dir=tmp_path).incidents
    assert incident["no_origin"].startswith("no operation of the training computed it")
    assert not incident["kept"] or "environment" in incident["why_not_repeated"]


def test_an_unused_terminal_observation_is_not_a_fault(tmp_path):
    class Ending(Sensor):
        def step(self, action):
            *seen, is_over, info = super().step(action)
            return seen[0], seen[1], is_over, False, info

    env = DummyVecEnv([lambda: Ending(DISCRETE, 10, NAN)])
    callback = EsperCallback(run_dir=tmp_path)

    build("PPO", DISCRETE, env).learn(ROLLOUT, callback=callback)

    assert callback.watch.troubles == []


def test_halt_ends_training_before_an_action_is_chosen_from_a_bad_observation(tmp_path):
    env = DummyVecEnv([lambda: Sensor(DISCRETE, 5, NAN)])
    model = build("PPO", DISCRETE, env)

    with pytest.raises(NonfiniteHalt):
        model.learn(ROLLOUT, callback=EsperCallback(run_dir=tmp_path, on_nonfinite="halt"))

    assert model.num_timesteps == 5


def test_the_finding_is_repeated_below_the_traceback(tmp_path):
    model = build("PPO", DISCRETE, DummyVecEnv([lambda: Sensor(DISCRETE, 5, NAN)]))

    with pytest.raises(ValueError, match="Expected parameter logits") as raised:
        model.learn(ROLLOUT, callback=EsperCallback(run_dir=tmp_path))

    finding, more = raised.value.__notes__[0].splitlines()
    assert finding.startswith(
        "Esper: shared NaN in obs_tensor, from environment 0, step 5, update 1"
    )
    assert "it came in with obs_tensor[0, 1], which is NaN; first used by addmm" in finding
    assert "esper incidents" in more


def test_a_watched_run_with_a_wrong_reward_equals_an_unwatched_one(tmp_path):
    states = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        model = build("PPO", DISCRETE, DummyVecEnv([lambda: Sensor(DISCRETE, 7, None, INF)]))
        callback = EsperCallback(run_dir=tmp_path)
        with suppress(ValueError):
            model.learn(2 * ROLLOUT, callback=callback if is_watched else None)
        states.append([one.nan_to_num(7.0) for one in model.policy.state_dict().values()])

    assert callback.watch.troubles
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


def test_another_fault_of_a_buffer_is_not_attributed_to_earlier_inputs(tmp_path):
    def plant(model):
        model.replay_buffer.observations[:] = NAN

    env = DummyVecEnv([lambda: Sensor(DISCRETE, 12, None, NAN)])
    model = build("DQN", DISCRETE, env, gradient_steps=8)
    callback = EsperCallback(run_dir=tmp_path, on_nonfinite="skip")
    model.learn(2 * ROLLOUT, callback=[Planted(plant, step=50), callback])

    assert incidents(callback.watch) == [
        [("rewards", 0, 12)],
        [("replay_data.observations", None, None)],
    ]


def test_a_permanently_broken_sensor_is_one_incident_with_a_place_per_update(tmp_path):
    class Broken(Sensor):
        def step(self, action):
            seen, _, *rest = super().step(action)
            return seen, NAN if self._step % ROLLOUT == 9 else 1.0, *rest

    model = build("PPO", DISCRETE, DummyVecEnv([lambda: Broken(DISCRETE)]))
    callback = EsperCallback(run_dir=tmp_path, on_nonfinite="skip")
    model.learn(4 * ROLLOUT, callback=callback)

    assert incidents(callback.watch) == [[("rewards", 0, 9)]]
    run = esper.open_run(run_dir=tmp_path)
    assert len(run.incidents) == 1
    (row,) = run.evidence
    assert (row.updates, row.first_step, row.last_update) == (4, 9, 4)
    assert callback.watch.is_stalled

"""Capsules of policies with images, several observations, gSDE, LSTMs and custom settings."""

import logging
from contextlib import suppress

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from sb3_models import BOX, DISCRETE, MULTI_BINARY, MULTI_DISCRETE
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv

from esper.integrations.sb3 import EsperCallback
from esper.services.incident_reports import replay_incident
from esper.simic.command_progress import NoProgress
from esper.simic.replay.verdict import REPRODUCED

IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
VECTOR = spaces.Box(-1.0, 1.0, (4,), np.float32)
SEVERAL = spaces.Dict({"camera": IMAGE, "joints": VECTOR, "gear": spaces.Discrete(3)})
SMALL = {"net_arch": [8]}
PPO = {"n_steps": 16, "batch_size": 8, "n_epochs": 2}

pytestmark = pytest.mark.filterwarnings("ignore::Warning")


class Sampled(gymnasium.Env):
    """Observations are samples of the space; the reward of the 40th step is infinite."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        observation_space.seed(1)
        self.count = 0

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        self.count += 1
        reward = np.inf if self.count == 40 else float(np.sum(action))
        return self.observation_space.sample(), reward, self.count % 7 == 0, False, {}

    def action_masks(self):
        return np.array([True, self.count % 2 == 0, True])


@pytest.mark.parametrize(
    ("cls", "policy", "observations", "actions", "settings"),
    [
        pytest.param(
            stable_baselines3.PPO, "CnnPolicy", IMAGE, DISCRETE,
            {**PPO, "policy_kwargs": {"features_extractor_kwargs": {"features_dim": 16}}},
            id="images",
        ),
        pytest.param(
            stable_baselines3.PPO, "MultiInputPolicy", SEVERAL, MULTI_DISCRETE,
            {**PPO, "policy_kwargs": SMALL}, id="several observations",
        ),
        pytest.param(
            stable_baselines3.PPO, "MlpPolicy", VECTOR, BOX,
            {**PPO, "use_sde": True, "sde_sample_freq": 4, "policy_kwargs": SMALL}, id="gSDE",
        ),
        pytest.param(
            stable_baselines3.PPO, "MlpPolicy", spaces.Discrete(5), MULTI_BINARY,
            {
                **PPO, "clip_range_vf": 0.2, "target_kl": 0.5, "normalize_advantage": False,
                "learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left,
                "policy_kwargs": {
                    "net_arch": {"pi": [8, 8], "vf": [4]}, "activation_fn": torch.nn.ELU,
                    "share_features_extractor": False,
                },
            },
            id="schedules",
        ),
        pytest.param(
            stable_baselines3.A2C, "MlpPolicy", VECTOR, BOX,
            {
                "n_steps": 16,
                "policy_kwargs": {**SMALL, "optimizer_class": RMSpropTFLike},
            },
            id="an optimizer of the library",
        ),
        pytest.param(
            sb3_contrib.RecurrentPPO, "MultiInputLstmPolicy", SEVERAL, DISCRETE,
            {
                **PPO,
                "policy_kwargs": {
                    **SMALL, "lstm_hidden_size": 8, "n_lstm_layers": 2,
                    "enable_critic_lstm": False, "shared_lstm": True,
                },
            },
            id="one LSTM",
        ),
        pytest.param(
            sb3_contrib.MaskablePPO, "MultiInputPolicy", SEVERAL, DISCRETE,
            {**PPO, "policy_kwargs": SMALL}, id="masks",
        ),
    ],
)  # fmt: skip
def test_a_capsule_is_reproduced(cls, policy, observations, actions, settings, tmp_path, caplog):
    caplog.set_level(logging.ERROR, "esper")
    env = DummyVecEnv([lambda: Sampled(observations, actions) for _ in range(2)])
    model = cls(policy, env, device="cpu", seed=1, **settings)
    callback = EsperCallback(run_dir=tmp_path)
    with suppress(ValueError):
        model.learn(160, callback=callback)
    (run,) = tmp_path.iterdir()

    replay = replay_incident(tmp_path, str(run), None, update=None, progress=NoProgress()).replay

    assert callback.watch.failures == 0, callback.watch.last_failure
    assert (replay.verdict, replay.differences) == (REPRODUCED, ())
    assert [(one.head, one.quantity) for one in replay.seen] == [("shared", "rewards")] * len(
        replay.seen
    )

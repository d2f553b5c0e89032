"""Recipes of rsl_rl, skrl, Tianshou and TorchRL, each with the library itself where installed."""

import contextlib

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import esper
from esper.karn.sanctum.following.follower import RunFollower

NAN = float("nan")
pytestmark = pytest.mark.filterwarnings("ignore::Warning")


@pytest.fixture(autouse=True)
def _one_thread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some libraries write logs where they stand
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.set_num_threads(threads)


class Walk(gymnasium.Env):
    """A random walk of 10 steps, with an Inf or NaN reward at one of them."""

    def __init__(self, action_space, bad_step=0, reward=NAN):
        self.action_space = action_space
        self.observation_space = spaces.Box(-5.0, 5.0, (4,), np.float32)
        self.random = np.random.default_rng(7)
        self.count, self.bad_step, self.reward = 0, bad_step, reward

    def reset(self, *, seed=None, options=None):
        return self.random.normal(size=4).astype(np.float32), {}

    def step(self, action):
        self.count += 1
        reward = self.reward if self.count == self.bad_step else float(np.asarray(action).sum())
        observation = self.random.normal(size=4).astype(np.float32)
        return observation, reward, self.count % 10 == 0, False, {}


def found(watch):
    assert watch.failures == 0, watch.last_failure
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def code_of(watch):
    origin = watch.troubles[0].explanation.origin
    assert origin is not None, watch.troubles[0].explanation.why_no_origin
    return origin.operation.place.code


def snapshot_of(run_dir):
    (run,) = run_dir.iterdir()
    return RunFollower(run).catch_up().snapshot


# --- rsl_rl -------------------------------------------------------------------------------


def rsl_runner(bad_step=0):
    pytest.importorskip("rsl_rl")
    from rsl_rl.env import VecEnv
    from rsl_rl.runners import OnPolicyRunner
    from tensordict import TensorDict

    class Environments(VecEnv):
        num_envs, num_actions, max_episode_length, device = 4, 2, 10, "cpu"

        def __init__(self):
            self.cfg, self.count = {}, 0
            self.episode_length_buf = torch.zeros(4, dtype=torch.long)

        def get_observations(self):
            return TensorDict({"policy": torch.randn(4, 3)}, batch_size=[4])

        def step(self, actions):
            self.count += 1
            rewards = actions.sum(-1)
            if self.count == bad_step:
                rewards = rewards + torch.inf  # its own check looks for NaN alone
            return self.get_observations(), rewards, torch.zeros(4, dtype=torch.long), {}

    normal = {"class_name": "GaussianDistribution", "init_std": 1.0}
    model = {"class_name": "MLPModel", "hidden_dims": [8]}
    cfg = {
        "num_steps_per_env": 8, "save_interval": 100, "multi_gpu": None,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**model, "distribution_cfg": normal}, "critic": model,
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 2, "num_mini_batches": 2},
    }  # fmt: skip
    return OnPolicyRunner(Environments(), cfg, device="cpu")


def test_rsl_rl(tmp_path):
    runner = rsl_runner()
    with esper.watch(runner, run_dir=tmp_path / "clean") as watch:
        runner.learn(2)
    assert found(watch) == []
    assert [head.name for head in watch.heads] == ["action[0]", "action[1]"]
    snapshot = snapshot_of(tmp_path / "clean")
    assert snapshot.run.update == 2
    assert "surrogate" in " ".join(snapshot.training.logged)

    runner = rsl_runner(bad_step=12)
    watch = esper.watch(runner, run_dir=tmp_path / "bad")
    with contextlib.suppress(RuntimeError, ValueError), watch:  # its distribution refuses NaN
        runner.learn(3)
    assert found(watch)[0] == ("shared", "rewards", "+inf")
    assert watch.troubles[0].update == 2
    assert "batch." in code_of(watch)


def test_a_head_of_rsl_rl(tmp_path):
    runner = rsl_runner()
    with esper.watch(runner, run_dir=tmp_path, on_nonfinite="skip") as watch:
        runner.learn(1)
        runner.alg.actor.mlp[-1].bias.data[1] = NAN
        with pytest.raises((RuntimeError, ValueError)):
            runner.learn(1)
    assert found(watch)[0] == ("action[1]", "parameters", "nan")


# --- skrl ---------------------------------------------------------------------------------


def skrl_trainer(bad_step=0):
    pytest.importorskip("skrl")
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.trainers.torch import SequentialTrainer

    class Policy(GaussianMixin, Model):
        def __init__(self, env):
            Model.__init__(
                self, observation_space=env.observation_space, action_space=env.action_space,
                device="cpu",
            )  # fmt: skip
            GaussianMixin.__init__(self)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
            self.log_std_parameter = nn.Parameter(torch.zeros(2))

        def compute(self, inputs, role):
            return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}

    class Value(DeterministicMixin, Model):
        def __init__(self, env):
            Model.__init__(
                self, observation_space=env.observation_space, action_space=env.action_space,
                device="cpu",
            )  # fmt: skip
            DeterministicMixin.__init__(self)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

        def compute(self, inputs, role):
            return self.net(inputs["observations"]), {}

    env = wrap_env(Walk(spaces.Box(-1.0, 1.0, (2,), np.float32), bad_step), wrapper="gymnasium")
    cfg = PPO_CFG()
    cfg.rollouts, cfg.learning_epochs, cfg.mini_batches = 16, 2, 2
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    agent = PPO(
        models={"policy": Policy(env), "value": Value(env)},
        memory=RandomMemory(memory_size=16, num_envs=1, device="cpu"),
        cfg=cfg, observation_space=env.observation_space, action_space=env.action_space,
        device="cpu",
    )  # fmt: skip
    settings = {"timesteps": 48, "headless": True, "disable_progressbar": True}
    return agent, SequentialTrainer(cfg=settings, env=env, agents=agent)


def test_skrl(tmp_path):
    agent, trainer = skrl_trainer()
    with esper.watch(agent, run_dir=tmp_path / "clean") as watch:
        trainer.train()
    assert found(watch) == []
    assert snapshot_of(tmp_path / "clean").run.update >= 2

    agent, trainer = skrl_trainer(bad_step=20)
    with esper.watch(agent, run_dir=tmp_path / "bad") as watch, contextlib.suppress(ValueError):
        trainer.train()
    assert found(watch)[0] == ("shared", "rewards", "nan")
    assert watch.troubles[0].update == 2
    assert "sampled_advantages" in code_of(watch) or "sampled_returns" in code_of(watch)


# --- Tianshou -----------------------------------------------------------------------------


def tianshou_training(bad_step=0):
    pytest.importorskip("tianshou")
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    env = Walk(spaces.Discrete(3), bad_step, np.inf)
    actor_net, critic_net = (Net(state_shape=(4,), hidden_sizes=[8]) for _ in range(2))
    actor = DiscreteActor(preprocess_net=actor_net, action_shape=3, softmax_output=False)
    policy = DiscreteActorPolicy(
        actor=actor, dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=env.action_space, observation_space=env.observation_space,
    )  # fmt: skip
    algorithm = PPO(
        policy=policy, critic=DiscreteCritic(preprocess_net=critic_net),
        optim=AdamOptimizerFactory(lr=1e-3),
    )  # fmt: skip
    collector = Collector(algorithm, DummyVectorEnv([lambda: env]), VectorReplayBuffer(200, 1))
    params = OnPolicyTrainerParams(
        training_collector=collector, max_epochs=1, epoch_num_steps=60,
        collection_step_num_env_steps=20, update_step_num_repetitions=2, batch_size=10,
        test_step_num_episodes=0, show_progress=False, verbose=False,
    )  # fmt: skip
    return algorithm, params


def test_tianshou(tmp_path):
    algorithm, params = tianshou_training()
    with esper.watch(algorithm, run_dir=tmp_path / "clean") as watch:
        algorithm.run_training(params)
    assert found(watch) == []
    assert [head.name for head in watch.heads] == ["action"]
    assert snapshot_of(tmp_path / "clean").run.update >= 3

    algorithm, params = tianshou_training(bad_step=25)
    watch = esper.watch(algorithm, run_dir=tmp_path / "bad")
    with contextlib.suppress(ValueError, RuntimeError), watch:
        algorithm.run_training(params)
    assert found(watch)[0] == ("shared", "batch.returns", "+inf")


# --- TorchRL ------------------------------------------------------------------------------


def test_torchrl(tmp_path):
    pytest.importorskip("torchrl")
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss

    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    actor = ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["logits"]), in_keys=["logits"],
        distribution_class=OneHotCategorical, return_log_prob=True,
    )  # fmt: skip
    critic = ValueOperator(nn.Linear(4, 1), in_keys=["observation"])
    loss_module = ClipPPOLoss(actor, critic)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)

    def train(count, bad=0):
        for number in range(1, count + 1):
            batch = TensorDict({"observation": torch.randn(8, 4)}, batch_size=[8])
            with torch.no_grad():
                actor(batch)
            batch["advantage"] = torch.randn(8, 1)
            batch["value_target"] = torch.randn(8, 1)
            if number == bad:
                batch["advantage"][3] = NAN
            losses = loss_module(batch)
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(loss_module.parameters(), 1.0)
            optimizer.step()

    with esper.watch(loss_module, optimizer, {"move": 3}, run_dir=tmp_path / "clean") as watch:
        train(3)
    assert found(watch) == []

    with esper.watch(loss_module, optimizer, {"move": 3}, run_dir=tmp_path / "bad") as watch:
        train(3, bad=3)
    assert found(watch) == [("shared", "batch['advantage']", "nan")]
    assert watch.troubles[0].explanation.origin is not None

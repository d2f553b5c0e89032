"""Stages with Stable-Baselines3 and sb3-contrib, watched with their callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib.common.maskable.policies as maskable_policies
import sb3_contrib.common.recurrent.policies as recurrent_policies
import stable_baselines3.common.buffers as sb3_buffers
import stable_baselines3.common.distributions as sb3_distributions
import stable_baselines3.common.policies as sb3_policies
import stable_baselines3.common.torch_layers as sb3_layers
import stable_baselines3.dqn.policies as dqn_policies
import stable_baselines3.sac.policies as sac_policies
import stable_baselines3.td3.policies as td3_policies
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.ppo_mask import ppo_mask as maskable_ppo
from sb3_contrib.ppo_recurrent import ppo_recurrent
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.a2c import a2c
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.dqn import dqn
from stable_baselines3.ppo import ppo
from stable_baselines3.sac import sac
from stable_baselines3.td3 import td3

from esper.integrations.sb3 import EsperCallback
from esper.watching.agreement import OnNonfinite
from esper.watching.watch import Watch
from watched_loops.broken_layers import UserLayer
from watched_loops.plain_stages import head_rows, setter_of
from watched_loops.stage import Stage, World
from watched_loops.truth import LINEAR, Line, Where

SIZE = 5
STEPS = 32
OFF_POLICY_STEPS = 8
PICK = ("index", "select", "slice")
LSTM = ("lstm", "mkldnn_rnn_layer", "_thnn_fused_lstm_cell", "unsqueeze", "reshape", "mul")


def heads_of(space: gym.Space, *, is_maskable: bool) -> dict[str, range]:
    """Return the rows of the output layer for each component of an action space."""
    if is_maskable and isinstance(space, gym.spaces.MultiBinary):  # has two logits for each
        return head_rows(gym.spaces.MultiDiscrete([2] * int(space.n)))
    return head_rows(space)


class Env(gym.Env):
    """Random observations and rewards, with what the case adds to them."""

    def __init__(self, seed: int, action_space: gym.Space, world: World) -> None:
        self.observation_space = gym.spaces.Box(-1e30, 1e30, (SIZE,), np.float32)
        self.action_space = action_space
        self.generator = np.random.default_rng(seed)
        self.world = world

    def observe(self) -> np.ndarray:
        observation = self.generator.standard_normal(SIZE).astype(np.float32)
        observation *= self.world.observation_scale
        observation[2] += self.world.take_observation()
        if self.world.dead:
            observation[0] = 0
        return observation

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self.generator.standard_normal()) * self.world.reward_scale
        reward += self.world.take_reward()
        return self.observe(), reward, bool(self.generator.random() < 0.05), False, {}

    def action_masks(self) -> np.ndarray:
        """Return which choices are legal; the first of each head always is."""
        rows = heads_of(self.action_space, is_maskable=True).values()
        legal = self.generator.random(max(row.stop for row in rows)) < 0.6
        legal[[row.start for row in rows]] = True
        return legal


class Planting(BaseCallback):
    """Plants the fault of a case before and after the rollout of an update."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.update = 0

    def _on_rollout_start(self) -> None:
        self.update += 1
        self.stage.begin_acting(self.update)

    def _on_rollout_end(self) -> None:
        self.stage.begin_learning(self.update, {})

    def _on_step(self) -> bool:
        return True


def _learn(stage: Stage) -> None:
    model, callbacks = stage.extra["algorithm"], [Planting(stage), *stage.extra["callbacks"]]
    model.learn(stage.updates * stage.extra["steps"], callback=CallbackList(callbacks))


def _set_up(stage: Stage, model: Any, steps: int) -> None:
    stage.extra |= {"algorithm": model, "callbacks": [], "steps": steps}
    options = stage.extra.get("options", {})

    @contextmanager
    def watching(mode: OnNonfinite, folder: Path) -> Iterator[Watch]:
        callback = EsperCallback(run_dir=folder, on_nonfinite=mode, **options)
        stage.extra["callbacks"] = [callback]
        proxy = _Started(callback)
        try:
            yield proxy  # type: ignore[misc]
        except BaseException as error:
            if callback.watch is not None:
                callback.watch.end(error)
            raise

    stage.watching = watching


class _Started:
    """The watch of a callback, which exists once training has started."""

    def __init__(self, callback: EsperCallback) -> None:
        self._callback = callback

    def __getattr__(self, name: str) -> Any:
        return getattr(self._callback.watch, name)


def _common(random: Random, kinds: tuple[str, ...]) -> tuple[int, World, UserLayer, gym.Space]:
    seed = random.randrange(1 << 30)
    kind = random.choice(kinds)
    spaces: dict[str, Callable[[], gym.Space]] = {
        "discrete": lambda: gym.spaces.Discrete(random.randint(2, 5)),
        "multidiscrete": lambda: gym.spaces.MultiDiscrete(
            [random.randint(2, 4) for _ in range(random.randint(2, 4))]
        ),
        "box": lambda: gym.spaces.Box(-1, 1, (random.randint(1, 3),), np.float32),
        "multibinary": lambda: gym.spaces.MultiBinary(random.randint(2, 4)),
    }
    return seed, World(), UserLayer(), spaces[kind]()


def _writer(stage: Stage, buffer: Any, names: dict[str, str]) -> None:
    """Let the stage write into an attribute of a rollout buffer, somewhere."""
    seed = stage.random.randrange(1 << 30)

    def write(place: str, value: float) -> None:
        values = getattr(buffer, names[place]).reshape(-1)
        values[Random(seed).randrange(len(values))] = value

    stage.write = write
    stage.places = tuple(names)


ON_POLICY_BUFFER = {
    "observations": "observations",
    "advantages": "advantages",
    "returns": "returns",
    "log_probs": "log_probs",
}


def _on_policy(random: Random, name: str) -> Stage:
    cls, loop, policies = {
        "ppo": (PPO, ppo, sb3_policies),
        "a2c": (A2C, a2c, sb3_policies),
        "maskable": (MaskablePPO, maskable_ppo, maskable_policies),
        "recurrent": (RecurrentPPO, ppo_recurrent, recurrent_policies),
    }[name]
    is_recurrent = name == "recurrent"
    kinds = {
        "maskable": ("discrete", "multidiscrete", "multibinary"),
        "recurrent": ("discrete", "multidiscrete", "box"),
    }.get(name, ("discrete", "multidiscrete", "multibinary", "box", "box"))
    seed, world, layer, space = _common(random, kinds)
    options: dict[str, Any] = {"n_steps": STEPS, "seed": seed % 1000, "device": "cpu"}
    if name != "a2c":
        options |= {"batch_size": 16, "n_epochs": 2}
        options["normalize_advantage"] = random.random() < 0.7
    if name == "a2c":
        options["use_rms_prop"] = random.random() < 0.5
    policy_options: dict[str, Any] = {"net_arch": [16]}
    if is_recurrent:
        policy_options |= {"lstm_hidden_size": 8}
    model = cls(
        "MlpLstmPolicy" if is_recurrent else "MlpPolicy",
        Env(seed, space, world),
        policy_kwargs=policy_options,
        **options,
    )
    policy = model.policy
    policy.mlp_extractor.policy_net.append(layer)
    is_box = isinstance(space, gym.spaces.Box)
    with_critic = random.random() < 0.5
    forward = [Line(sb3_layers, "return self.policy_net(features)")]
    critic = [Line(sb3_layers, "return self.value_net(features)")]
    output = Line(
        sb3_policies if name != "maskable" else maskable_policies,
        "mean_actions = self.action_net(" if name != "maskable" else "action_logits = self.action_",
    )
    first = [*forward, *critic]
    operations: tuple[str, ...] = LINEAR
    if is_recurrent:
        operations = (*LINEAR, *LSTM, "_to_copy", "cat", "stack", "clone")
        first += [
            Line(policies, "hidden, lstm_states = lstm("),
            Line(policies, "lstm_output, lstm_states = lstm("),
            Line(policies, "features_sequence = features.reshape("),
        ]
    values = [
        Line(policies, "values = self.value_net("),
        Line(policies, "return self.value_net("),
    ]
    advantage_lines = (
        Line(loop, "advantages = (advantages"),
        *([] if name != "a2c" else [Line(loop, "policy_loss = ")]),
        *([] if name == "a2c" else [Line(loop, "policy_loss_1 = "), Line(loop, "policy_loss_2")]),
    )
    arithmetic = ("mean", "mul", "sub", "std", "div", "index", "pow", "mse_loss", "exp", "add",
                  "mse_loss_backward", "gather", "select")  # fmt: skip
    returns = Where(("returns",), arithmetic, (Line(loop, "value_loss = "),))
    loss_where = Where(("loss",), ("mul", "add"), (Line(loop, "loss = policy_loss"),))
    table = {
        "observations": Where(("observations",), operations, tuple(first)),
        "acted": Where(("obs", "features"), operations, tuple(first)),
        "advantages": Where(("advantages",), arithmetic, advantage_lines),
        "returns": returns,
        "rewards": Where(
            ("rewards", "advantages", "returns"), arithmetic, (*advantage_lines, *returns.lines)
        ),
        "output": Where(("parameters", "moments"), LINEAR, (output,)),
        "trunk": Where(
            ("parameters", "moments"), (*LINEAR, *LSTM) if is_recurrent else LINEAR,
            tuple(first) if is_recurrent else tuple(forward),
        ),
        "value": Where(("parameters", "moments"), LINEAR, tuple(values)),
        "loss": loss_where,
    }  # fmt: skip
    if name != "a2c":
        table["log_probs"] = Where(("log_prob",), ("sub", "exp"), (Line(loop, "ratio = th.exp("),))
    if is_box:
        table["log_std"] = Where(
            ("parameters", "std", "scale", "prob", "moments"), ("exp",),
            (Line(sb3_distributions, "action_std = th.ones_like(mean_actions)"),),
        )  # fmt: skip
    trunk = (
        policy.lstm_actor.weight_ih_l0
        if is_recurrent
        else policy.mlp_extractor.policy_net[0].weight
    )
    stage = Stage(
        random,
        policy,
        [policy.optimizer],
        _learn,
        watching=None,  # type: ignore[arg-type]
        where=table,
        heads=heads_of(space, is_maskable=name == "maskable"),
        output=policy.action_net,
        trunk=(trunk, "shared"),
        layer=layer,
        value=(policy.value_net.weight, "critic" if with_critic else "shared"),
        set_log_std=setter_of(policy.log_std) if is_box else None,
        settings={
            "value coefficient": lambda value: setattr(model, "vf_coef", value),
            "entropy coefficient": lambda value: setattr(model, "ent_coef", value),
        },
        world=world,
        set_rate=lambda value: setattr(model, "lr_schedule", lambda _: value),
        steps_per_update=1 if name == "a2c" else 4,
        updates=8 if name == "a2c" else 4,
        tags=frozenset({"acts", "ppo", "clips", "dead"})
        | ({"rmsprop"} if options.get("use_rms_prop") else set()),
    )
    _writer(
        stage, model.rollout_buffer,
        {k: v for k, v in ON_POLICY_BUFFER.items() if name != "a2c" or k != "log_probs"},
    )  # fmt: skip
    if with_critic:
        stage.extra["options"] = {"groups": {"critic": "value_net"}}
    _set_up(stage, model, STEPS)
    return stage


def _off_policy(random: Random, name: str) -> Stage:
    cls, loop = {"dqn": (DQN, dqn), "sac": (SAC, sac), "td3": (TD3, td3)}[name]
    seed, world, layer, space = _common(random, ("discrete",) if name == "dqn" else ("box",))
    options: dict[str, Any] = {
        "seed": seed % 1000, "device": "cpu", "learning_starts": 8, "batch_size": 32,
        "train_freq": OFF_POLICY_STEPS, "gradient_steps": 4, "buffer_size": 500,
    }  # fmt: skip
    model = cls(
        "MlpPolicy", Env(seed, space, world), policy_kwargs={"net_arch": [16, 16]}, **options
    )
    policy = model.policy
    observed = ("observations", "obs")
    sampled = Line(sb3_buffers, "return th.tensor(array, device=self.device)")
    qf = Line(sb3_policies, "return tuple(q_net(qvalue_input)")
    targets = Line(loop, "target_q_values = ")
    critic_in = Line(sb3_policies, "qvalue_input = th.cat(")
    if name == "dqn":
        layers = policy.q_net.q_net
        layers.insert(len(layers) - 1, layer)
        policy.q_net_target.q_net.insert(len(layers) - 2, UserLayer())
        line = Line(dqn_policies, "return self.q_net(self.extract_features(obs")
        output, trunk = layers[-1], layers[0].weight
        table = {
            "observations": Where(observed, LINEAR, (line,)),
            "output": Where(("parameters", "moments"), LINEAR, (line,)),
            "next_observations": Where(observed, LINEAR, (line,)),
        }
        optimizers = [policy.optimizer]
    elif name == "sac":
        policy.actor.latent_pi.append(layer)
        output, trunk = policy.actor.mu, policy.actor.latent_pi[0].weight
        latent = Line(sac_policies, "latent_pi = self.latent_pi(features)")
        mean = Line(sac_policies, "mean_actions = self.mu(latent_pi)")
        table = {
            "observations": Where(observed, (*LINEAR, "cat"), (latent, critic_in)),
            "output": Where(("parameters", "moments"), LINEAR, (mean,)),
            "next_observations": Where(observed, (*LINEAR, "cat"), (latent, critic_in)),
        }
        optimizers = [policy.actor.optimizer, policy.critic.optimizer, model.ent_coef_optimizer]
        line = latent
    else:
        output, trunk = policy.actor.mu[-2], policy.actor.mu[0].weight
        policy.actor.mu.insert(len(policy.actor.mu) - 2, layer)
        policy.actor_target.mu.insert(len(policy.actor.mu) - 3, UserLayer())
        line = Line(td3_policies, "return self.mu(features)")
        table = {
            "observations": Where(observed, (*LINEAR, "cat"), (line, critic_in)),
            "output": Where(("parameters", "moments"), LINEAR, (line,)),
            "next_observations": Where(observed, (*LINEAR, "cat"), (line, critic_in)),
        }
        optimizers = [policy.actor.optimizer, policy.critic.optimizer]
    table["acted"] = Where((*observed, "features"), table["observations"].operations,
                           table["observations"].lines)  # fmt: skip
    table["trunk"] = Where(("parameters", "moments"), LINEAR, (line,))
    table["rewards"] = Where(("rewards",), ("add",), (targets,))
    for place in ("observations", "next_observations", "acted", "rewards"):
        one = table[place]
        table[place] = Where(one.quantities, (*one.operations, "_to_copy"), (*one.lines, sampled))
    value = None
    if name != "dqn":
        value = (policy.critic.qf0[-1].weight, "shared")
        table["value"] = Where(
            ("parameters", "moments"), LINEAR,
            (qf, Line(sb3_policies, "return self.q_networks[0]")),
        )  # fmt: skip
    stage = Stage(
        random,
        policy,
        optimizers,
        _learn,
        watching=None,  # type: ignore[arg-type]
        where=table,
        heads=head_rows(space),
        output=output,
        trunk=(trunk, "shared"),
        layer=layer,
        value=value,
        settings={},
        world=world,
        first_update=2,
        updates=6,
        steps_per_update=4 if name != "td3" else 2,
        set_rate=lambda value: setattr(model, "lr_schedule", lambda _: value),
        phases_of_data={
            "next_observations": ("update", "acting"),
            "observations": ("update", "acting"),
            "layer": ("update", "acting"),
        },
        tags=frozenset({"acts"} if name != "dqn" else ()) | {"off-policy"},
        cannot=frozenset({"eps"}),
    )
    buffer = model.replay_buffer
    seed = random.randrange(1 << 30)

    def write(place: str, value: float) -> None:
        values = getattr(buffer, place)[: buffer.pos]
        draw = np.random.default_rng(seed)
        rows = draw.random(len(values)) < 0.5
        values.reshape(len(values), -1)[rows, 0] = value

    stage.write = write
    stage.places = ("observations", "rewards", "next_observations")
    if name == "td3":
        stage.optimizers = [policy.actor.optimizer, policy.critic.optimizer]
    _set_up(stage, model, OFF_POLICY_STEPS)
    return stage


LIBRARIES: dict[str, Callable[[Random], Stage]] = {
    "sb3-ppo": lambda random: _on_policy(random, "ppo"),
    "sb3-a2c": lambda random: _on_policy(random, "a2c"),
    "sb3-dqn": lambda random: _off_policy(random, "dqn"),
    "sb3-sac": lambda random: _off_policy(random, "sac"),
    "sb3-td3": lambda random: _off_policy(random, "td3"),
    "contrib-maskable": lambda random: _on_policy(random, "maskable"),
    "contrib-recurrent": lambda random: _on_policy(random, "recurrent"),
}

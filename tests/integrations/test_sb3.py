"""Stable-Baselines3 and sb3-contrib under `EsperCallback`."""

import io
from contextlib import suppress

import pytest
import torch
from sb3_faults import INF, NAN, Planted, in_moment, in_parameter, in_rollout, planted_step
from sb3_models import (
    ALGORITHMS,
    BOX,
    CASE_NAMES,
    CASES,
    MULTI_BINARY,
    ON_POLICY,
    ROLLOUT,
    Walk,
    build,
)
from sb3_runs import first_space, snapshot_of, trained

from esper.integrations.sb3 import EsperCallback

ON_POLICY_CASES = [case for case in CASES if case[0] in ON_POLICY]
ON_POLICY_NAMES = [name for name in CASE_NAMES if name.split("-")[0] in ON_POLICY]

pytestmark = [
    pytest.mark.usefixtures("quiet_and_alone"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
]


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def origin(watch):
    """Return the operation in which the first incident began."""
    explanation = watch.troubles[0].explanation
    assert explanation.origin is not None, explanation.why_no_origin
    return explanation.origin.operation


def code_of(watch):
    return origin(watch).place.code


def state(model):
    """Return all weights, all states of optimizers, and the state of the random generator."""
    optimizers = [
        part.optimizer.state_dict()
        for part in (model.policy, *model.policy.children())
        if isinstance(getattr(part, "optimizer", None), torch.optim.Optimizer)
    ]
    file = io.BytesIO()
    torch.save([model.policy.state_dict(), optimizers, torch.get_rng_state()], file)
    return file.getvalue()


@pytest.mark.parametrize(("name", "space"), CASES, ids=CASE_NAMES)
def test_a_watched_run_equals_an_unwatched_one(name, space, tmp_path):
    plain = build(name, space)
    plain.learn(3 * ROLLOUT)

    model = build(name, space)
    watch = trained(tmp_path, model)

    assert watch.troubles == []
    assert state(model) == state(plain)
    (run,) = tmp_path.iterdir()
    assert run.name.endswith(f"-{name}")
    snapshot = snapshot_of(run)
    assert snapshot.run.phase == "finished"
    assert "rollout/ep_rew_mean" in snapshot.training.logged
    assert any(name.startswith("train/") for name in snapshot.training.logged)


@pytest.mark.parametrize("name", [*ON_POLICY, "DQN", "QRDQN", "SAC", "TD3", "TQC"])
def test_after_a_reported_fault_training_equals_that_of_an_unwatched_run(name, tmp_path):
    space = first_space(name)
    results = []
    for is_watched in (False, True):
        # Its square overflows; the norm is Inf, and clipping makes the gradients 0 or NaN.
        model = build(name, space, Walk(space, planted_step(23, reward=1e30)))
        callback = EsperCallback(run_dir=tmp_path)
        with suppress(ValueError):
            model.learn(3 * ROLLOUT, callback=callback if is_watched else None)
        results.append(state(model))

    assert results[0] == results[1]
    assert callback.watch.failures == 0, callback.watch.last_failure
    assert name in ("DQN", "QRDQN", "TQC") or callback.watch.troubles  # these have Huber losses


@pytest.mark.parametrize(("name", "space"), ON_POLICY_CASES, ids=ON_POLICY_NAMES)
def test_an_observation_is_found_while_acting(name, space, tmp_path):
    model = build(name, space, Walk(space, planted_step(33, observation=NAN)))

    watch = trained(tmp_path, model)

    assert found(watch) == [("shared", "obs_tensor", "nan")]
    assert (watch.troubles[0].update, watch.troubles[0].phase) == (2, "acting")
    assert origin(watch).phase == "forward"


@pytest.mark.parametrize(("name", "space"), ON_POLICY_CASES, ids=ON_POLICY_NAMES)
def test_a_reward_is_found_behind_the_advantages(name, space, tmp_path):
    model = build(name, space, Walk(space, planted_step(34, reward=INF)))

    watch = trained(tmp_path, model)

    assert found(watch) == [("shared", "rewards", "+inf")]
    assert "advantages" in code_of(watch) or name == "A2C"


@pytest.mark.parametrize("name", ON_POLICY)
def test_an_advantage(name, tmp_path):
    watch = trained(tmp_path, build(name, first_space(name)), in_rollout("advantages", NAN))

    assert found(watch) == [("shared", "rollout_data.advantages", "nan")]
    expected = "policy_loss = -(adv" if name == "A2C" else "advantages = (advantages - advantages"
    assert code_of(watch).startswith(expected)


def test_variables_of_the_script_are_not_blamed(tmp_path):
    placeholder = torch.tensor(NAN)

    watch = trained(tmp_path, build("PPO", first_space("PPO")), in_rollout("advantages", NAN))

    assert found(watch) == [("shared", "rollout_data.advantages", "nan")]
    assert placeholder.isnan()


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO", "RecurrentPPO"])
def test_an_old_log_probability(name, tmp_path):
    watch = trained(tmp_path / "a", build(name, first_space(name)), in_rollout("log_probs", NAN))
    assert found(watch) == [("shared", "rollout_data.old_log_prob", "nan")]

    watch = trained(tmp_path / "b", build(name, first_space(name)), in_rollout("log_probs", -500))
    assert found(watch) == [("shared", "ratio", "+inf")]
    assert origin(watch).base == "exp"
    assert code_of(watch) == "ratio = th.exp(log_prob - rollout_data.old_log_prob)"


@pytest.mark.parametrize(("name", "space"), ON_POLICY_CASES, ids=ON_POLICY_NAMES)
def test_a_weight_of_the_last_head(name, space, tmp_path):
    plant = in_parameter("action_net.weight", (-1, 0), NAN)

    watch = trained(tmp_path, build(name, space), plant)

    assert found(watch) == [(watch.heads[-1].name, "parameters", "nan")]
    assert code_of(watch).endswith(" = self.action_net(latent_pi)")


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_value_head_alone(name, tmp_path):
    plant = in_parameter("value_net.weight", (0, 0), INF)

    watch = trained(tmp_path, build(name, first_space(name)), plant)

    assert found(watch) == [("shared", "parameters", "+inf")]
    assert watch.troubles[0].explanation.found[0].part == "value_net.weight"
    assert "value_net(latent_vf)" in code_of(watch)


@pytest.mark.parametrize("name", ON_POLICY)
def test_a_moment_of_the_optimizer(name, tmp_path):
    moment = "square_avg" if name == "A2C" else "exp_avg"
    plant = in_moment("action_net.bias", 0, NAN, moment)

    watch = trained(tmp_path, build(name, first_space(name)), plant)

    assert found(watch) == [(watch.heads[0].name, "moments", "nan")]
    assert watch.troubles[0].explanation.found[0].part == f"{moment} of action_net.bias"


@pytest.mark.parametrize("name", ["PPO", "A2C", "RecurrentPPO"])
def test_a_standard_deviation(name, tmp_path):
    space = ALGORITHMS[name][3][-1]
    watch = trained(tmp_path / "nan", build(name, space), in_parameter("log_std", 1, NAN))
    assert found(watch) == [("action[1]", "parameters", "nan")]
    assert (watch.troubles[0].phase, watch.troubles[0].minibatch) == ("update", 1)
    assert "log_std.exp()" in code_of(watch)

    watch = trained(tmp_path / "large", build(name, space), in_parameter("log_std", 1, 100.0))
    assert origin(watch).base == "exp"
    assert "overflow in exp" in watch.troubles[0].explanation.origin.cause

    plant = in_parameter("log_std", 1, 100.0, step=40)
    watch = trained(tmp_path / "acting", build(name, space), plant)
    assert found(watch)[0] == ("action[1]", "action_std", "+inf")
    assert watch.troubles[0].phase == "acting"


def test_a_logarithm_of_the_standard_deviation_lights_its_dimension(tmp_path):
    def break_dimension(model):
        model.policy.actor.log_std.register_forward_hook(
            lambda _module, _inputs, output: (output.abs() * torch.tensor([1.0, -1.0])).log()
        )

    watch = trained(tmp_path, build("SAC", BOX), Planted(break_dimension, step=20))

    assert {(owner, quantity) for owner, quantity, _ in found(watch)} == {("action[1]", "log_std")}
    assert origin(watch).base == "log"


@pytest.mark.parametrize("row", [0, 3])
def test_heads_of_masked_bits_are_bits(row, tmp_path):
    """MaskablePPO has two logits for each bit."""

    def break_logit(model):
        model.policy.action_net.register_forward_hook(
            lambda _module, _inputs, output: output.index_fill(1, torch.tensor([row]), torch.inf)
        )

    watch = trained(tmp_path, build("MaskablePPO", MULTI_BINARY), Planted(break_logit, step=40))

    assert [(head.name, head.columns) for head in watch.heads] == [
        (f"action[{bit}]", range(2 * bit, 2 * bit + 2)) for bit in range(3)
    ]
    assert found(watch)[0] == (f"action[{row // 2}]", "action_logits", "+inf")


def test_a_learning_rate_that_is_far_too_large(tmp_path):
    """At 1e6 this tiny network stays finite."""
    watch = trained(tmp_path, build("PPO", first_space("PPO"), learning_rate=1e20))

    assert found(watch)[0] == ("shared", "value_loss", "+inf")
    assert "overflow" in watch.troubles[0].explanation.origin.cause
    assert (watch.troubles[0].update, watch.troubles[0].minibatch) == (1, 2)


def test_an_optimizer_without_eps(tmp_path):
    kwargs = {"net_arch": [8], "optimizer_kwargs": {"eps": 0.0}}
    model = build("PPO", first_space("PPO"), vf_coef=0.0, policy_kwargs=kwargs)

    watch = trained(tmp_path, model)

    parts = [one.part for one in watch.troubles[0].explanation.found]
    assert parts
    assert all("value_net" in part for part in parts)
    assert (watch.troubles[0].update, watch.troubles[0].minibatch) == (1, 2)


@pytest.mark.parametrize("name", ["DQN", "QRDQN", "SAC", "TD3", "TQC"])
def test_a_reward_in_the_replay_buffer(name, tmp_path):
    def plant(model):
        model.replay_buffer.rewards[:] = NAN

    watch = trained(
        tmp_path, build(name, first_space(name)), Planted(plant, step=20), steps=2 * ROLLOUT
    )

    assert found(watch)[0] == ("shared", "replay_data.rewards", "nan")
    assert code_of(watch).startswith("target_q")


@pytest.mark.parametrize(
    ("name", "layer", "code"),
    [
        ("DQN", "q_net.q_net.2.bias", "return self.q_net("),
        ("QRDQN", "quantile_net.quantile_net.2.bias", "quantiles = self.quantile_net("),
        ("SAC", "actor.mu.bias", "mean_actions = self.mu(latent_pi)"),
        ("SAC", "actor.log_std.bias", "log_std = self.log_std(latent_pi)"),
        ("TD3", "actor.mu.2.bias", "return self.mu(features)"),
        ("TQC", "actor.mu.bias", "mean_actions = self.mu(latent_pi)"),
        ("SAC", "critic.qf0.0.bias", "q_net(qvalue_input)"),
        ("TD3", "critic_target.qf0.0.bias", "q_net(qvalue_input)"),
        ("TQC", "critic.qf0.0.bias", "qf(qvalue_input)"),
    ],
)
def test_a_weight_of_an_off_policy_algorithm(name, layer, code, tmp_path):
    model = build(name, first_space(name))

    watch = trained(tmp_path, model, in_parameter(layer, -1, NAN, step=20), steps=40)

    owner = "shared" if "critic" in layer else watch.heads[-1].name
    assert found(watch)[0] == (owner, "parameters", "nan")
    assert watch.troubles[0].explanation.found[0].part == layer
    assert code in code_of(watch)


def test_q_values_that_overflow(tmp_path):
    watch = trained(tmp_path, build("DQN", first_space("DQN"), learning_rate=1e20), steps=60)

    assert found(watch)[0][:2] == ("action", "q_values")
    assert "overflow" in watch.troubles[0].explanation.origin.cause


def test_a_loss_that_is_infinite_while_gradients_are_finite(tmp_path):
    """The derivative of a Huber loss is finite everywhere."""

    def plant(model):
        model.replay_buffer.rewards[:] = INF

    model = build("DQN", first_space("DQN"), gradient_steps=20, train_freq=20)

    watch = trained(tmp_path, model, Planted(plant, step=20), steps=20)

    assert found(watch) == [("shared", "replay_data.rewards", "+inf")]


def test_returns_of_candidates(tmp_path):
    space = first_space("ARS")

    watch = trained(tmp_path, build("ARS", space, Walk(space, planted_step(23, reward=INF))))

    assert found(watch)[0] == ("shared", "candidate_returns", "+inf")
    assert found(watch)[1][1] == "parameters"

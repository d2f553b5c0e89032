"""Watched training with Stable-Baselines3: skipping, halting, saving, continuing."""

import copy
import io

import pytest
import torch
from sb3_faults import NAN, in_rollout, planted_step
from sb3_models import ON_POLICY, ROLLOUT, Walk, build
from sb3_runs import first_space, snapshot_of, trained
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from esper.integrations.sb3 import EsperCallback
from esper.watching.agreement import NonfiniteHalt

pytestmark = [
    pytest.mark.usefixtures("quiet_and_alone"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning"),
]


@pytest.mark.parametrize("name", [*ON_POLICY, "SAC"])
def test_skip_keeps_weights_finite(name, tmp_path):
    space = first_space(name)
    model = build(name, space, Walk(space, planted_step(35, reward=NAN)))

    watch = trained(tmp_path, model, on_nonfinite="skip", steps=4 * ROLLOUT)

    assert watch.troubles
    assert model.num_timesteps == 4 * ROLLOUT
    assert all(bool(value.isfinite().all()) for value in model.policy.state_dict().values())


def test_halt_ends_the_process_with_exit_code_3(tmp_path):
    model = build("PPO", first_space("PPO"))
    callback = EsperCallback(run_dir=tmp_path, on_nonfinite="halt")

    with pytest.raises(NonfiniteHalt) as raised:
        model.learn(3 * ROLLOUT, callback=[in_rollout("advantages", NAN), callback])

    assert raised.value.code == 3
    (run,) = tmp_path.iterdir()
    assert snapshot_of(run).run.phase == "halted"
    assert "train" not in vars(model)


class Saves(BaseCallback):
    """Saves and copies the algorithm and its policy while it is watched."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.copied = None

    def _on_step(self):
        if self.n_calls == ROLLOUT + 1:
            self.model.save(self.folder / "during.zip")
            copy.deepcopy(self.model.policy)
            torch.save(self.model.policy, io.BytesIO())
            self.copied = copy.deepcopy(self.model)
        return True


@pytest.mark.parametrize("name", ["PPO", "RecurrentPPO", "DQN", "SAC"])
def test_saving_and_copying(name, tmp_path):
    space = first_space(name)
    model, saves = build(name, space), Saves(tmp_path)

    watch = trained(tmp_path / "runs", model, saves)
    model.save(tmp_path / "after.zip")
    after = [value.clone() for value in model.policy.state_dict().values()]

    assert watch.troubles == []
    for file in ("during.zip", "after.zip"):
        loaded = type(model).load(tmp_path / file, env=Walk(space), device="cpu")
        assert not {"train", "collect_rollouts"} & vars(loaded).keys()
        loaded.learn(ROLLOUT)
    saves.copied.learn(ROLLOUT)  # its own methods, not those of the watched algorithm
    assert all(map(torch.equal, model.policy.state_dict().values(), after))


def test_together_with_an_evaluation_callback(tmp_path):
    space = first_space("PPO")
    evaluation = EvalCallback(
        DummyVecEnv([lambda: Walk(space)]), eval_freq=20, n_eval_episodes=1, verbose=0, warn=False
    )

    watch = trained(tmp_path, build("PPO", space), evaluation)

    assert watch.troubles == []
    assert evaluation.n_calls == 3 * ROLLOUT


def test_each_call_of_learn_is_a_run_unless_it_continues_the_previous_one(tmp_path):
    model = build("PPO", first_space("PPO"))
    model.learn(2 * ROLLOUT, callback=EsperCallback(run_dir=tmp_path))
    model.learn(2 * ROLLOUT, callback=EsperCallback(run_dir=tmp_path), reset_num_timesteps=False)
    (run,) = tmp_path.iterdir()
    snapshot = snapshot_of(run)
    assert (snapshot.run.update, snapshot.run.phase) == (4, "finished")

    model.learn(ROLLOUT, callback=EsperCallback(run_dir=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_off_policy_updates_have_a_length_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("esper.integrations.sb3._UPDATE_SECONDS", 0.0)

    trained(tmp_path, build("SAC", first_space("SAC")), steps=20)

    (run,) = tmp_path.iterdir()
    assert snapshot_of(run).run.update == 12  # one per step after the 8th


def test_an_exception_of_the_environment_is_not_an_incident(tmp_path):
    def broken(step, observation, reward):
        if step == 40:
            raise RuntimeError("the simulator crashed")
        return observation, reward

    space = first_space("PPO")
    model = build("PPO", space, Walk(space, broken))
    callback = EsperCallback(run_dir=tmp_path)

    with pytest.raises(RuntimeError, match="the simulator crashed"):
        model.learn(3 * ROLLOUT, callback=callback)

    assert callback.watch.troubles == []
    (run,) = tmp_path.iterdir()
    assert snapshot_of(run).run.phase == "failed"
    assert not {"train", "collect_rollouts"} & vars(model).keys()

"""Recovery: a run goes back to a state that is sound, and never loses its last good checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.leyline.telemetry import (
    HOSTS,
    SHARED,
    CheckpointWritten,
    InterventionTaken,
    PPOUpdatePayload,
    RunFinished,
)
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.training.checkpoint import load_checkpoint, load_latest, save_checkpoint

Train = Callable[..., tuple[RunFinished, Any]]
CPU = torch.device("cpu")


def broken_before(
    monkeypatch: pytest.MonkeyPatch, number: int, spoil: Callable[[PPOAgent], None]
) -> None:
    """Have the agent's state spoiled before one of its updates, counted from 1."""
    update = PPOAgent.update
    count = 0

    def spoiled(agent: PPOAgent, *arguments: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            with torch.no_grad():
                spoil(agent)
        return update(agent, *arguments, **settings)

    monkeypatch.setattr(PPOAgent, "update", spoiled)


def nan_weight(agent: PPOAgent) -> None:
    agent.policy.features.weight[0, 0] = torch.nan


def negative_moment(agent: PPOAgent) -> None:
    agent.state.moments_of(agent.policy.critic.bias)["exp_avg_sq"].fill_(-1.0)


def broken_clock(agent: PPOAgent) -> None:
    agent.optimizer.state[agent.parameters.flat]["step"].fill_(torch.nan)


def saturated_bias(agent: PPOAgent) -> None:
    agent.policy.lstm.bias_ih_l0[0] = torch.inf


@pytest.mark.parametrize("spoil", [nan_weight, negative_moment, broken_clock, saturated_bias])
@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_a_fault_between_updates_is_undone_and_training_continues(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[PPOAgent], None],
    mode: str,
) -> None:
    broken_before(monkeypatch, 3, spoil)
    ending, log = train(episodes=10, on_nonfinite=mode)
    assert (ending.status, ending.update) == ("finished", 5)
    assert [(taken.update, taken.action) for taken in log.of(InterventionTaken)] == [
        (3, "rollback")
    ]
    third = log.of(PPOUpdatePayload)[2]
    assert third.head_nonfinite[0].phase == "given"
    assert third.head_nonfinite[0].head == SHARED
    # Nothing is kept of the update that was undone; later ones are, and they are sound.
    assert [written.update for written in log.of(CheckpointWritten)] == [1, 2, 4, 5]
    checkpoint, passed_over = load_latest(tmp_path / "checkpoints", CPU)
    assert checkpoint is not None
    assert (checkpoint.update, passed_over) == (5, [])


def test_without_a_sound_state_in_memory_the_checkpoint_is_used(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(episodes=4)
    broken_before(monkeypatch, 1, nan_weight)  # the first update of the resumed process
    ending, log = train(episodes=8)
    assert (ending.status, ending.update) == ("finished", 4)
    assert [(taken.update, taken.action) for taken in log.of(InterventionTaken)] == [
        (3, "rollback")
    ]
    checkpoint, _ = load_latest(tmp_path / "checkpoints", CPU)
    assert checkpoint is not None
    assert checkpoint.update == 4


def test_without_any_sound_state_the_run_halts(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_before(monkeypatch, 1, nan_weight)
    ending, log = train(episodes=4)
    assert ending.status == "halted"
    assert ending.reason.endswith("there is no sound state to go back to")
    assert log.of(CheckpointWritten) == []


def test_the_last_good_checkpoint_is_not_removed(train: Train, tmp_path: Path) -> None:
    bad = tuple(f"op:nan@{update}" for update in range(3, 9))
    train(episodes=16, inject=bad, nonfinite_patience=9)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt"))
    assert kept == ["update-000002.pt", "update-000007.pt", "update-000008.pt"]
    train(episodes=20)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt"))
    assert kept[-2:] == ["update-000009.pt", "update-000010.pt"]


def test_a_resume_after_a_bad_update_keeps_the_last_good_checkpoint(
    train: Train, tmp_path: Path
) -> None:
    def kept() -> list[str]:
        return sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.pt"))

    train(episodes=8, inject=("op:nan@3", "op:nan@4"))
    assert kept() == ["update-000002", "update-000003", "update-000004"]
    # Damage is not taken for good, and neither is the bad update that is resumed from.
    (tmp_path / "checkpoints" / "update-000004.pt").write_bytes(b"damage")
    train(episodes=10, inject=("op:nan@4", "op:nan@5"))
    assert kept() == ["update-000002", "update-000004", "update-000005"]
    train(episodes=14)
    assert kept() == ["update-000006", "update-000007"]


@pytest.mark.parametrize("name", ["exp_avg_sq", "step"])
def test_a_checkpoint_with_an_invalid_negative_value_is_skipped(
    train: Train, tmp_path: Path, name: str
) -> None:
    train(episodes=4)
    path = tmp_path / "checkpoints" / "update-000002.pt"
    state = load_checkpoint(path, CPU)
    state.agent["optimizer"]["state"][0][name].view(-1)[0] = -1.0
    save_checkpoint(state, path.parent)
    checkpoint, (one,) = load_latest(tmp_path / "checkpoints", CPU)
    assert checkpoint is not None
    assert checkpoint.update == 1
    assert name in one.reason


def test_a_repeated_update_that_was_finite_is_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(episodes=4)
    clean = load_checkpoint(tmp_path / "checkpoints" / "update-000002.pt", CPU)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    forward = PPOAgent._forward
    calls = 0

    def once(agent: PPOAgent, batch: Any, index: int, hook: Any) -> Any:
        nonlocal calls
        calls += 1
        terms = forward(agent, batch, index, hook)
        if calls == 8:  # in the second update, and not when it is repeated
            terms.output.trunk.data[0, 0] = torch.nan
        return terms

    monkeypatch.setattr(PPOAgent, "_forward", once)
    _, log = train(episodes=4)
    payload = log.of(PPOUpdatePayload)[1]
    (seen,) = payload.head_nonfinite
    assert (seen.head, seen.quantity, seen.reproduced) == (SHARED, "trunk", False)
    assert payload.minibatches_skipped == 0
    (taken,) = log.of(InterventionTaken)
    assert (taken.update, taken.action) == (2, "repeat")
    after = load_checkpoint(tmp_path / "checkpoints" / "update-000002.pt", CPU)
    for name, weights in after.agent["policy"].items():
        assert torch.equal(weights, clean.agent["policy"][name])


def test_a_host_left_out_of_learning_does_not_affect_others(
    make_agent: Callable[..., PPOAgent], make_rollout: Callable[..., Rollout]
) -> None:
    weights = []
    for spoiled in (False, True):
        agent = make_agent(ppo_epochs=2, minibatches=2)
        rollout = make_rollout(agent)
        fields = dict(rollout.__dict__)
        fields["learnable"] = torch.arange(rollout.hosts) != 3
        if spoiled:
            for name in ("rewards", "values", "next_values", "observations"):
                fields[name] = fields[name].clone()
                fields[name][:, 3] = torch.nan
        result = agent.update(Rollout(**fields))
        assert result.figures.head_nonfinite == []
        weights.append(agent.parameters.flat.detach().clone())
    assert torch.equal(*weights)


def test_a_broken_host_lights_its_group_and_no_head(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from esper.growth.hosts import host_faults
    from esper.simic.training import collecting

    collect = collecting.EpisodeWatch.hosts

    def with_fault(watch: Any, step: int, faults: Any) -> None:
        fault = host_faults.HostFault(1, "loss", "nan", "", True)
        collect(watch, step, [*faults, fault] if step == 2 else faults)

    monkeypatch.setattr(collecting.EpisodeWatch, "hosts", with_fault)
    ending, log = train(episodes=4)
    assert ending.status == "finished"
    for payload in log.of(PPOUpdatePayload):
        (seen,) = payload.head_nonfinite
        assert (seen.head, seen.phase, seen.host, seen.step) == (HOSTS, "hosts", 1, 2)
        assert not any(payload.head_nan_detected.values())
        assert payload.minibatches == 6  # of the other host


def test_a_checkpoint_whose_policy_forbids_a_choice_by_its_bias_is_resumed_from(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last choice of `op` is never legal in so short an episode."""

    def forbid(agent: PPOAgent) -> None:
        agent.policy.heads.bias[-1] = -torch.inf

    broken_before(monkeypatch, 1, forbid)
    train(episodes=4)
    checkpoint, passed_over = load_latest(tmp_path / "checkpoints", CPU)
    assert checkpoint is not None
    assert (checkpoint.update, passed_over) == (2, [])
    assert checkpoint.agent["policy"]["heads.bias"][-1] == -torch.inf

"""Intervening: what is done, that it is bounded, and that it leaves finite weights behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline.telemetry import (
    CheckpointWritten,
    IncidentRecorded,
    InterventionTaken,
    Notice,
    PPOUpdatePayload,
    RunFinished,
)
from esper.simic.agent.ppo import PPOAgent
from esper.simic.replay.incidents import list_incidents
from esper.simic.training.checkpoint import latest_checkpoint, load_checkpoint
from esper.simic.training.faults.intervention import Action, Escalation

Train = Callable[..., tuple[RunFinished, Any]]


@given(
    mode=st.sampled_from(["skip", "rollback", "halt"]),
    patience=st.integers(1, 6),
    updates=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200),
)
def test_escalation_is_bounded(mode: str, patience: int, updates: list[tuple[bool, bool]]) -> None:
    escalation = Escalation(mode, patience)
    skipped = rolled_back = 0
    for is_good, state_is_finite in updates:
        if is_good:
            escalation = escalation.after_good()
            skipped = rolled_back = 0
            continue
        escalation, action, reason = escalation.after_bad(state_is_finite=state_is_finite)
        assert reason
        if action is Action.HALT:
            return
        if action is Action.SKIP:
            assert mode == "skip"
            assert state_is_finite
            skipped += 1
        else:
            rolled_back += 1
        assert skipped < patience
        assert rolled_back <= patience


def drills(last: int) -> tuple[str, ...]:
    return tuple(f"op:nan@{update}" for update in range(1, last + 1))


def weights_after(tmp_path: Path, update: int) -> torch.Tensor:
    path = latest_checkpoint(tmp_path / "checkpoints")
    assert path is not None
    checkpoint = load_checkpoint(path, torch.device("cpu"))
    assert checkpoint.update == update
    return torch.cat([value.flatten() for value in checkpoint.agent["policy"].values()])


def test_training_continues_after_skipping_and_reports_it(train: Train) -> None:
    ending, log = train(episodes=6, inject=("op:nan@2",))
    assert ending.status == "finished"
    (taken,) = log.of(InterventionTaken)
    assert (taken.update, taken.action, taken.reason) == (2, "skip", "--on-nonfinite skip")
    assert taken.cause == "op NaN in logits and 3 more"
    assert [update.update for update in log.of(PPOUpdatePayload)] == [1, 2, 3]


def test_rolling_back_undoes_the_whole_update(train: Train, tmp_path: Path) -> None:
    train(episodes=2, minibatches=2)
    before = weights_after(tmp_path, 1)
    ending, log = train(episodes=4, minibatches=2, inject=("op:nan@2",), on_nonfinite="rollback")
    assert ending.status == "finished"
    assert [taken.action for taken in log.of(InterventionTaken)] == ["rollback"]
    assert torch.equal(weights_after(tmp_path, 2), before)


def test_repeated_bad_updates_roll_back_and_then_halt(train: Train, tmp_path: Path) -> None:
    ending, log = train(episodes=40, inject=drills(20), nonfinite_patience=2)
    actions = [taken.action for taken in log.of(InterventionTaken)]
    assert actions == ["skip", "rollback", "rollback", "halt"]
    assert ending.status == "halted"
    assert ending.reason == (
        "update 4 was not finite: op NaN in logits and 3 more; 2 rollbacks in a row did not help"
    )
    assert log.payloads[-1] == ending
    assert weights_after(tmp_path, 4).isfinite().all()
    # A resumed run has as many tries as a new one.
    _, log = train(episodes=48, inject=drills(20), nonfinite_patience=2)
    assert [taken.action for taken in log.of(InterventionTaken)] == actions


def test_halting_at_once_leaves_a_finite_checkpoint_to_resume_from(
    train: Train, tmp_path: Path
) -> None:
    ending, log = train(episodes=6, inject=("slot:inf@2",), on_nonfinite="halt")
    assert (ending.status, ending.update) == ("halted", 2)
    assert log.of(CheckpointWritten)[-1].update == 2
    ending, _ = train(episodes=6, inject=("slot:inf@2",), on_nonfinite="halt")
    assert (ending.status, ending.update) == ("finished", 3)


def test_escalation_continues_after_a_resume(train: Train, tmp_path: Path) -> None:
    train(episodes=2, inject=drills(1), nonfinite_patience=2)
    _, log = train(episodes=4, inject=drills(2), nonfinite_patience=2)
    assert [taken.action for taken in log.of(InterventionTaken)] == ["rollback"]


@pytest.mark.parametrize("part", ["critic.bias", "exp_avg_sq of critic.bias"])
def test_weights_and_moments_that_are_not_finite_are_never_kept(
    train: Train, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    update = PPOAgent.update

    def corrupted(agent: PPOAgent, *arguments: Any, **settings: Any) -> Any:
        result = update(agent, *arguments, **settings)
        with torch.no_grad():
            bias = agent.policy.critic.bias
            tensor = bias if part == "critic.bias" else agent.state.moments_of(bias)["exp_avg_sq"]
            tensor.fill_(torch.inf)
        return result

    monkeypatch.setattr(PPOAgent, "update", corrupted)
    _, log = train(episodes=2)
    assert log.of(CheckpointWritten) == []
    notice = log.of(Notice)[-1]
    assert notice.text.startswith(f"no checkpoint of update 1: {part} not finite")


def test_the_first_incident_of_each_kind_is_kept_and_then_a_limited_number(
    train: Train, tmp_path: Path
) -> None:
    _, log = train(
        episodes=10,
        inject=(*drills(4), "slot:inf@5"),
        nonfinite_patience=9,
        incidents_kept=1,
    )
    recorded = log.of(IncidentRecorded)
    assert [bool(incident.path) for incident in recorded] == [True, True, False, False, True]
    assert recorded[2].reason == ("it shows nothing new, and 1 such are kept (--incidents-kept)")
    assert [incident.number for incident in list_incidents(tmp_path)] == [1, 2, 5]


def test_numbers_of_incidents_continue_after_a_resume(train: Train, tmp_path: Path) -> None:
    settings = {"nonfinite_patience": 9, "incidents_kept": 0}
    train(episodes=4, inject=drills(2), **settings)
    _, log = train(episodes=6, inject=("slot:inf@3",), **settings)
    assert [incident.number for incident in log.of(IncidentRecorded)] == [3]
    assert [incident.number for incident in list_incidents(tmp_path)] == [1, 3]


def test_a_capsule_that_cannot_be_written_is_reported(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "incidents").write_text("a file where the folder would be")
    ending, log = train(episodes=2, inject=("op:inf@1",))
    assert ending.status == "finished"
    assert "it could not be written" in log.of(IncidentRecorded)[0].reason

"""A resumed run equals an uninterrupted one; tests/campaigns/test_equality.py draws more cases."""

from pathlib import Path

from run_equality import assert_resume_changes_nothing


def test_a_run_resumed_after_one_update_equals_a_run_of_two(tmp_path: Path) -> None:
    assert_resume_changes_nothing(
        tmp_path,
        updates=1,
        settings={
            "envs": 2,
            "steps": 2,
            "task": "digits",
            "seed": 5,
            "device": "cpu",
            "processes": 1,
            "ppo_epochs": 1,
            "minibatches": 1,
            "feature_size": 4,
            "lstm_size": 4,
            "inject": ("op:inf@1",),
        },
    )

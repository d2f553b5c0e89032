"""Trained policies, read from checkpoints for evaluation and growing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from esper.growth.environment.observation import FEATURES
from esper.leyline.files.checkpoint_file import CheckpointError
from esper.leyline.heads import HEAD_SIZES
from esper.simic.config import TrainingConfig, read_config, updated
from esper.simic.training.checkpoint import load_checkpoint
from esper.simic.training.run_data import read_records
from esper.tamiyo.policy import RecurrentPolicy
from esper.tamiyo.shipped import load_shipped_policy

_NO_DIGEST = (
    "the shipped policy was written by an older version of Esper and has no digest, so damage to "
    "its weights cannot be detected"
)


@dataclass(frozen=True)
class TrainedPolicy:
    """A trained policy and its training.

    Attributes:
        name: the name it is shown under, such as the run's id.
        policy: the policy, on the CPU.
        config: the settings of its training.
        episodes: number of episodes of its training.
        data: fingerprint of the data it was last trained on; empty if unknown.
        caution: why damage to it cannot be detected, a sentence; empty if it can.
    """

    name: str
    policy: RecurrentPolicy
    config: TrainingConfig
    episodes: int
    data: str = ""
    caution: str = ""


def load_trained_policy(checkpoint: Path, config: TrainingConfig, name: str) -> TrainedPolicy:
    """Read the policy of a checkpoint.

    Args:
        checkpoint: the checkpoint file.
        config: settings of its run.
        name: the name to show it under.

    Raises:
        CheckpointError: it cannot be read, or it was trained with other observations or heads than
            those of this version.
    """
    kept = load_checkpoint(checkpoint, torch.device("cpu"))
    state: Any = kept.agent.get("policy")
    for tensor, axis, here, what in (
        ("features.weight", 1, len(FEATURES), "observations of"),
        ("heads.weight", 0, sum(HEAD_SIZES), "heads with"),
    ):
        try:
            there = state[tensor].shape[axis]
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{checkpoint} holds no policy of Esper") from error
        if there != here:
            raise CheckpointError(
                f"the policy in {checkpoint} was trained with {what} {there} entries and this "
                f"version has {here}: train a new policy"
            )
    policy = RecurrentPolicy(
        len(FEATURES), feature_size=config.feature_size, lstm_size=config.lstm_size
    )
    try:
        policy.load_state_dict(state)
    except (RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"the policy in {checkpoint} does not fit the settings of its run"
        ) from error
    records = read_records(checkpoint.parent.parent)
    data = records[-1].fingerprint if records else ""
    return TrainedPolicy(name, policy, config, kept.episodes_done, data)


def shipped_policy(name: str) -> TrainedPolicy:
    """Return the policy that comes with the package.

    Args:
        name: the name to show it under.

    Raises:
        ShippedPolicyError: it is missing, damaged, or made for another version.
    """
    shipped = load_shipped_policy([feature.name for feature in FEATURES])
    # Settings that did not exist at its training have their defaults.
    config = updated(TrainingConfig(), read_config(shipped.config))
    caution = "" if shipped.has_digest else _NO_DIGEST
    return TrainedPolicy(name, shipped.policy, config, shipped.episodes, caution=caution)

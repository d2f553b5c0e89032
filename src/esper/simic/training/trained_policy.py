"""A policy as training left it, read from a checkpoint for others to act with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from esper.growth.environment.observation import FEATURES
from esper.leyline.checkpoint_file import CheckpointError
from esper.leyline.heads import HEAD_SIZES
from esper.simic.config import TrainingConfig, read_config, updated
from esper.simic.training.checkpoint import load_checkpoint
from esper.simic.training.run_data import read_records
from esper.tamiyo.policy import RecurrentPolicy
from esper.tamiyo.shipped import load_shipped_policy

_NO_DIGEST = (
    "the shipped policy was written by an older Esper and has no digest: whether a weight in it "
    "was changed cannot be checked"
)


@dataclass(frozen=True)
class TrainedPolicy:
    """A learnt policy, where it comes from, and what it was trained for.

    Attributes:
        name: the run's id, or whatever it is called.
        policy: on the CPU.
        config: that it was trained with.
        episodes: it has learnt from.
        data: the fingerprint of the data it was last trained on; empty if that is not known.
        caution: why damage to it would not be noticed, a sentence; empty if it would be.
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
        checkpoint: that training wrote.
        config: of its run.
        name: what to call it.

    Raises:
        CheckpointError: it cannot be read, or was trained with other observations or heads than
            this version has.
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
                f"version has {here}: train it anew"
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
        name: what to call it.

    Raises:
        ShippedPolicyError: it is missing, damaged, or was made for other code.
    """
    shipped = load_shipped_policy([feature.name for feature in FEATURES])
    # It was trained before some of today's settings were there: those have their defaults.
    config = updated(TrainingConfig(), read_config(shipped.config))
    caution = "" if shipped.has_digest else _NO_DIGEST
    return TrainedPolicy(name, shipped.policy, config, shipped.episodes, caution=caution)

"""The environment of a run: what its settings say about the hosts."""

import torch
from gymnasium.vector import AutoresetMode

from esper.growth.env import GrowthVectorEnv
from esper.growth.reward import RewardSettings
from esper.simic.config import ConfigError, TrainingConfig


def resolve_device(name: str) -> torch.device:
    """Return the device that a setting names.

    Raises:
        ConfigError: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, and torch finds none here; cpu is there")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_environment(config: TrainingConfig, hosts: int, device: torch.device) -> GrowthVectorEnv:
    """Return an environment of so many hosts; a batch of episodes begins when it is asked to."""
    return GrowthVectorEnv(
        hosts,
        task=config.task,
        steps=config.steps,
        device=str(device),
        autoreset_mode=AutoresetMode.DISABLED,
        reward=RewardSettings(discount=config.gamma),
    )

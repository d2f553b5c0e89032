"""The environment of a run: what its settings say about the hosts."""

from typing import Any

import torch
from gymnasium.vector import AutoresetMode

from esper.growth.environment.divided import DividedHosts
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.host_process import SilenceListener
from esper.growth.environment.reward import RewardSettings
from esper.growth.tasks.task import Task
from esper.simic.config import ConfigError, TrainingConfig


def resolve_device(name: str) -> torch.device:
    """Return the device that a setting names.

    Raises:
        ConfigError: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda was asked for, and torch finds none here; cpu is there", "device"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_environment(config: TrainingConfig, hosts: int, device: torch.device) -> GrowthVectorEnv:
    """Return an environment of so many hosts; a batch of episodes begins when it is asked to."""
    return GrowthVectorEnv(
        hosts, autoreset_mode=AutoresetMode.DISABLED, **_settings(config, device)
    )


def divide_hosts(
    config: TrainingConfig,
    hosts: int,
    device: torch.device,
    task: Task | None = None,
    on_silence: SilenceListener | None = None,
) -> DividedHosts:
    """Return the same hosts, divided among processes; on another device than the CPU, one has all.

    The caller closes it. `task` is the task of the config if the caller has loaded it, `on_silence`
    is called while one of the processes does not answer.
    """
    processes = config.processes if device.type == "cpu" else 1
    settings = _settings(config, device) | ({} if task is None else {"task": task})
    return DividedHosts(hosts, processes, on_silence=on_silence, **settings)


def _settings(config: TrainingConfig, device: torch.device) -> dict[str, Any]:
    return {
        "task": config.task,
        "steps": config.steps,
        "device": str(device),
        "threads": None,  # set for the whole process
        "reward": RewardSettings(discount=config.gamma),
    }

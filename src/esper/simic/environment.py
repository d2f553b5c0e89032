"""Creates the environment of a run from its settings."""

from typing import Any

import torch
from gymnasium.vector import AutoresetMode

from esper.growth.environment.divided import DividedHosts
from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.environment.host_process import SilenceListener
from esper.growth.environment.reward import RewardSettings
from esper.growth.hosts.minibatches import fitting_batch
from esper.growth.tasks.task import Task
from esper.simic.config import ConfigError, TrainingConfig

#: Samples in a minibatch of hosts where there is enough data.
BATCH = 50


def resolve_device(name: str) -> torch.device:
    """Return the device of a setting.

    Raises:
        ConfigError: the device is cuda, and torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda needs a GPU, and torch finds none here: use cpu", "device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def make_environment(
    config: TrainingConfig, num_hosts: int, device: torch.device, task: Task | None = None
) -> GrowthVectorEnv:
    """Return an environment with that many hosts, without automatic resets.

    Args:
        config: the settings.
        num_hosts: number of hosts.
        device: device of the hosts.
        task: the task, if it is already loaded. The minibatches of a small task are smaller then.
    """
    settings = _settings(config, device)
    if task is not None:
        settings |= {"task": task, "batch": fitting_batch(len(task.train), BATCH)}
    return GrowthVectorEnv(num_hosts, autoreset_mode=AutoresetMode.DISABLED, **settings)


def divide_hosts(
    config: TrainingConfig,
    num_hosts: int,
    device: torch.device,
    task: Task | None = None,
    on_silence: SilenceListener | None = None,
    processes: int | None = None,
) -> DividedHosts:
    """Return the same environment, divided among processes on CPU.

    Args:
        config: the settings.
        num_hosts: number of hosts.
        device: device of the hosts.
        task: the task of the config, if it is already loaded.
        on_silence: called while one of the processes does not answer.
        processes: most processes, this one included; by default those of the settings.

    Returns:
        The hosts; the caller must close them.
    """
    processes = config.processes if processes is None else processes
    processes = processes if device.type == "cpu" else 1
    settings = _settings(config, device) | ({} if task is None else {"task": task})
    return DividedHosts(num_hosts, processes, on_silence=on_silence, **settings)


def _settings(config: TrainingConfig, device: torch.device) -> dict[str, Any]:
    return {
        "task": config.task,
        "steps": config.steps,
        "device": str(device),
        "threads": None,  # set for the whole process
        "reward": RewardSettings(discount=config.gamma),
    }

"""The start of a run: its data, its description and its first event."""

import socket
from pathlib import Path

import psutil
import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.tasks.loading import load_task
from esper.growth.tasks.summary import summary_lines
from esper.growth.tasks.task import Task
from esper.leyline.files.checkpoint_file import checkpoint_path, unsealed_sentence
from esper.leyline.heads import BLUEPRINT_CHOICES, HEAD_CHOICES, SLOT_CHOICES
from esper.leyline.telemetry import RunStarted
from esper.leyline.version import VERSION
from esper.simic.agent.agreement import Agreement
from esper.simic.agent.ppo import PPOAgent
from esper.simic.config import TrainingConfig, check_same_settings, settings_of
from esper.simic.ranks.collectives import Ranks
from esper.simic.training.checkpoint import Checkpoint
from esper.simic.training.process.stopping import StopRequest
from esper.simic.training.run_data import check_same_data, read_records, record_data
from esper.simic.training.run_log import RunLog
from esper.tamiyo.policy import RecurrentPolicy


def load_data(name: str, device: torch.device, log: RunLog, stop: StopRequest) -> Task:
    """Load the task with this name, and report that, since it may take long.

    Raises:
        StoppedAtOnce: the user asked to stop at once.
        All exceptions of `load_task`.
    """
    log.write(f"preparing {name} on {device}")
    log.progress.stage(f"preparing {name}")
    with stop.interruptible():
        return load_task(name)


def check_checkpoint(
    config: TrainingConfig, checkpoint: Checkpoint, folder: Path, log: RunLog
) -> None:
    """Check that a checkpoint has the settings of the run; warn if it has no digest.

    Raises:
        ConfigError: a setting differs.
    """
    source = f"the checkpoint of update {checkpoint.update}"
    check_same_settings(config, checkpoint.settings, source)
    if not checkpoint.is_sealed:
        log.write(unsealed_sentence(checkpoint_path(folder, checkpoint.update)), "warning")


def compare_data(run: Path, task: Task, update: int, log: RunLog) -> None:
    """Check that a task has the data of the run; record the data of a new run.

    Args:
        run: the run's directory.
        task: the task, loaded; built-in ones have no fingerprint and cannot change.
        update: number of updates that are done.
        log: receives a warning if the data cannot be recorded.

    Raises:
        ConfigError: the data has changed.
    """
    if not task.fingerprint:
        return
    check_same_data(run, task.name, task.fingerprint)
    if not read_records(run):
        try:
            record_data(run, task.fingerprint, update)
        except OSError as error:
            log.say(f"the data of the run was not recorded: {error}", "warning")


def describe_task(task: Task, log: RunLog) -> None:
    """Print what the samples of a task are; log it, too, if the data is the user's own."""
    for line in summary_lines(task):
        log.progress.say(line)
        if task.fingerprint:
            log.write(line, "warning" if line.startswith("note:") else "info")


def make_agent(
    config: TrainingConfig, env: GrowthVectorEnv, device: torch.device, agreement: Agreement
) -> PPOAgent:
    """Return a new agent for the observations of an environment.

    Args:
        config: the run's settings.
        env: the environment.
        device: device of the agent.
        agreement: what the processes agree on that make the same updates.
    """
    shape = env.single_observation_space.shape
    assert shape is not None
    policy = RecurrentPolicy(
        shape[0], feature_size=config.feature_size, lstm_size=config.lstm_size
    ).to(device)
    return PPOAgent(policy, config, rng_seed=config.rng_seed, agreement=agreement)


def run_started(
    config: TrainingConfig,
    run: str,
    task: Task,
    *,
    device: torch.device,
    threads: int,
    host_parameters: int,
    resumed_from_update: int | None,
    ranks: Ranks | None = None,
) -> RunStarted:
    """Return the start event of a run.

    Args:
        config: the run's settings.
        run: the run's name.
        task: the task, loaded.
        device: device of hosts and agent.
        threads: number of PyTorch threads in each process.
        host_parameters: number of parameters of a host without seeds.
        resumed_from_update: the last update before a resume; None for a new run.
        ranks: the ranks of the run; None for a process that trains alone.
    """
    process = psutil.Process()
    return RunStarted(
        run_id=run,
        name=run,
        task=config.task,
        seed=config.rng_seed,
        device=str(device),
        threads=threads,
        episodes=config.episodes,
        steps=config.steps,
        environments=config.num_envs,
        heads={head: list(choices) for head, choices in HEAD_CHOICES.items()},
        slots=list(SLOT_CHOICES),
        blueprints=list(BLUEPRINT_CHOICES),
        host_parameters=host_parameters,
        largest_class=task.validation.largest_class,
        config=settings_of(config),
        pid=process.pid,
        process_start_time=process.create_time(),
        esper_version=VERSION,
        torch_version=str(torch.__version__),
        resumed_from_update=resumed_from_update,
        rank=ranks.rank if ranks else 0,
        world_size=ranks.world_size if ranks else 1,
        machine=socket.gethostname(),
    )


def start_line(started: RunStarted, processes: int) -> str:
    """Return the console line of a start event.

    Args:
        started: the event.
        processes: number of processes that hold hosts, of each rank.
    """
    divided = f"processes {processes}"
    if started.world_size > 1:
        divided = f"ranks {started.world_size}"
    after = started.resumed_from_update
    resumed = "" if after is None else f", resumed after update {after}"
    return (
        f"run {started.run_id}: {started.task}, {started.episodes} episodes, "
        f"{started.environments} at a time in lockstep on {started.device}, "
        f"{divided}, threads {started.threads}{resumed}"
    )

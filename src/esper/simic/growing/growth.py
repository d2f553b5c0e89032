"""Growing: a trained policy grows networks on a task, and the best one is returned."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from esper.growth.environment.env import GrowthVectorEnv
from esper.growth.export.module_files import load_module, logits_of, write_module
from esper.growth.export.onnx_file import write_onnx
from esper.growth.from_scratch import architecture_of, train_from_scratch
from esper.growth.hosts.finished import FinishedNetwork
from esper.growth.hosts.seeds import Transition
from esper.growth.tasks.summary import summary_lines
from esper.growth.tasks.task import Task
from esper.leyline.heads import HEAD_NAMES
from esper.leyline.text.plurals import counted
from esper.simic.command_progress import Report, no_report
from esper.simic.config import updated
from esper.simic.environment import make_environment, resolve_device
from esper.simic.evaluation.arena import agent_player, evaluation_seeds
from esper.simic.requests import GrowingError, check_growing
from esper.simic.training.trained_policy import TrainedPolicy

#: Largest allowed difference between the logits of the written module and its host, relative to the
#: largest logit.
_TOLERANCE = 1e-3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Moment:
    """One network after one step.

    Attributes:
        accuracy: validation accuracy, including everything that is blended in.
        stage, alpha, blueprint: state of each slot. `[S]`
        happened: transitions of its seeds in this step.
    """

    accuracy: float
    stage: np.ndarray
    alpha: np.ndarray
    blueprint: np.ndarray
    happened: tuple[Transition, ...]


@dataclass(frozen=True)
class Measured:
    """The result of training a network.

    Attributes:
        parameters: number of parameters.
        validation_accuracy, test_accuracy: accuracy on those parts of the task.
        multiply_adds: cost of its training, see `esper.growth.hosts.training_cost`.
    """

    parameters: int
    validation_accuracy: float
    test_accuracy: float
    multiply_adds: float


@dataclass(frozen=True)
class Grown:
    """A network that a policy grew, with what it is compared with.

    Attributes:
        policy: the policy.
        task: the task.
        rng_seed: the random seed.
        steps, samples: steps of the episode; training samples in a step.
        network: the finished network.
        logits: logits of its host on the test part. `[n, classes]`
        host: its number among all networks that were grown.
        result: its result.
        rivals: validation accuracy of every network that was grown, itself included; 0 for those
            that are not finite. `[K]`
        moments: its state before the first step and after each step.
        without_growth: result of the same host on the same data without growth.
        idle_accuracy: validation accuracy of that host, as in `moments`.
        from_scratch: result of the same architecture, trained from the first step.
    """

    policy: TrainedPolicy
    task: Task
    rng_seed: int
    steps: int
    samples: int
    network: FinishedNetwork
    logits: torch.Tensor
    host: int
    result: Measured
    rivals: np.ndarray
    moments: tuple[Moment, ...]
    without_growth: Measured
    idle_accuracy: tuple[float, ...]
    from_scratch: Measured


def grow(
    policy: TrainedPolicy,
    task: str,
    *,
    num_hosts: int,
    rng_seed: int,
    steps: int | None,
    say: Say,
    report: Report = no_report,
) -> Grown:
    """Let a policy grow networks, and return the one with the best validation accuracy.

    On CPU, with the same number of threads, the same arguments give bitwise the same network.

    Args:
        policy: the policy that grows them.
        task: name of the task.
        num_hosts: number of networks to grow.
        rng_seed: random seed; training never uses the hosts that it leads to.
        steps: steps of the episode; as many as in the training of the policy if None.
        say: receives lines of progress.
        report: receives the progress after every step.

    Raises:
        GrowingError, UnknownTaskError, InvalidTaskError, HostShapeError, SliceSizeError: an
            argument or the data cannot be used.
        GrowingError: no grown network is finite.
    """
    check_growing(num_hosts, rng_seed, steps)
    changes = {"task": task} | ({} if steps is None else {"steps": steps})
    config = updated(policy.config, changes)
    env = make_environment(config, num_hosts, resolve_device(config.device))
    rng_seeds = evaluation_seeds(rng_seed, num_hosts)
    player = agent_player(policy.policy.to(env.device), rng_seed, 1)
    for line in summary_lines(env.task):
        say(line)
    decide = player(num_hosts, 0)
    observations, info = env.reset(seed=rng_seeds)
    _check_module(env)
    say(f"growing {counted(num_hosts, 'network')}, {counted(env.steps, 'step')}")
    guess = f"(largest class {env.task.validation.largest_class:.3f})"
    lives = [[_moment(info, host, ())] for host in range(num_hosts)]
    work = _Work(env.steps, num_hosts, report)
    for step in range(1, env.steps + 1):
        observations, *_, info = env.step(decide(observations, info))
        for host, life in enumerate(lives):
            happened = tuple(each for each in info["transitions"] if each.host == host)
            life.append(_moment(info, host, happened))
        work.grown(step)
        if step % max(1, env.steps // 4) == 0:
            best = info["accuracy"].max()
            say(f"step {step} of {env.steps}: best accuracy {best:.3f} {guess}")
    finite = np.isfinite(info["score"])
    if not finite.any():
        raise GrowingError(
            f"no network can be written: {counted(num_hosts, 'network')} grew on {task}, and every "
            "one ended with NaN or Inf in its loss; try another --seed"
        )
    if not finite.all():
        broken = num_hosts - int(finite.sum())
        say(f"{counted(broken, 'network')} ended with NaN or Inf in the loss and cannot be chosen")
    rivals = np.where(finite, info["final_accuracy"], 0.0)
    chosen = min(
        np.flatnonzero(finite).tolist(),
        key=lambda host: (-rivals[host], info["final_parameters"][host]),
    )
    network, logits = env.finished_network(chosen), env.test_logits()[chosen].cpu()
    if not logits.isfinite().all():
        raise GrowingError(
            f"the best network that grew on {task} has NaN or Inf in its logits on the test part, "
            "so nothing was written; try another --seed"
        )
    result = _measured(info, env.test_accuracy(), chosen)
    seeds_in_slots = (info[name] for name in ("stage", "blueprint", "style", "alpha"))
    architecture = architecture_of(*seeds_in_slots).take(slice(chosen, chosen + 1))

    say(
        "training for comparison: the same host without growth, and the same architecture from "
        "scratch"
    )
    trained = train_from_scratch(
        env, architecture, [rng_seeds[chosen]], np.array([env.steps]), work.trained
    )
    without_growth, idle_accuracy = _without_growth(env, rng_seeds, chosen, work.left_alone)
    return Grown(
        policy=policy,
        task=env.task,
        rng_seed=rng_seed,
        steps=env.steps,
        samples=env.batch * env.batches,
        network=network,
        logits=logits,
        host=chosen,
        result=result,
        rivals=rivals,
        moments=tuple(lives[chosen]),
        without_growth=without_growth,
        idle_accuracy=idle_accuracy,
        from_scratch=Measured(
            int(trained.parameters[0]),
            float(trained.validation_accuracy[0]),
            float(trained.test_accuracy[0]),
            float(trained.multiply_adds[0]),
        ),
    )


class _Work:
    """Reports the progress of growing, weighted by the time that its three parts take.

    A step of all hosts without seeds takes about half as long as one in which they grow, and a
    step of one network a fraction of that.
    """

    def __init__(self, steps: int, num_hosts: int, report: Report) -> None:
        self._steps = steps
        self._parts = (1.0, 1.0 / num_hosts, 0.5)
        self._report = report

    def grown(self, step: int) -> None:
        self._at(0, "growing", step)

    def trained(self, step: int) -> None:
        self._at(1, "the same architecture from scratch", step)

    def left_alone(self, step: int) -> None:
        self._at(2, "the same host without growth", step)

    def _at(self, part: int, what: str, step: int) -> None:
        before = sum(self._parts[:part])
        done = (before + self._parts[part] * step / self._steps) / sum(self._parts)
        self._report(f"{what}, step {step} of {self._steps}", done)


def _without_growth(
    env: GrowthVectorEnv, rng_seeds: list[int], host: int, on_step: Callable[[int], None]
) -> tuple[Measured, tuple[float, ...]]:
    """Return the result of a host without growth, and its accuracy after each step."""
    waiting = np.zeros((env.num_envs, len(HEAD_NAMES)), dtype=np.int64)
    _, info = env.reset(seed=rng_seeds)
    accuracy = [float(info["accuracy"][host])]
    for step in range(1, env.steps + 1):
        *_, info = env.step(waiting)
        on_step(step)
        accuracy.append(float(info["accuracy"][host]))
    return _measured(info, env.test_accuracy(), host), tuple(accuracy)


def _moment(info: dict[str, np.ndarray], host: int, happened: tuple[Transition, ...]) -> Moment:
    return Moment(
        float(info["accuracy"][host]),
        info["stage"][host],
        info["alpha"][host],
        info["blueprint"][host],
        happened,
    )


def _measured(info: dict[str, np.ndarray], test_accuracy: np.ndarray, host: int) -> Measured:
    return Measured(
        int(info["final_parameters"][host]),
        float(info["final_accuracy"][host]),
        float(test_accuracy[host]),
        float(info["multiply_adds"][host]),
    )


def write_checked(grown: Grown, directory: Path) -> float:
    """Write a network's module, and compare its logits on the test part with those of its host.

    Returns:
        The largest difference of any logit.

    Raises:
        RuntimeError: they differ by more than rounding errors.
    """
    return _write_compared(grown.network, grown.task, grown.logits, directory)


def write_onnx_checked(grown: Grown, directory: Path) -> float:
    """Write the network in a folder as ONNX, and compare its logits on the test part as above.

    Args:
        grown: the network.
        directory: its folder, after `write_checked`.

    Returns:
        The largest difference of any logit between ONNX Runtime and the host.

    Raises:
        OSError: the file cannot be written.
        RuntimeError: they differ by more than rounding errors.
    """
    written = write_onnx(load_module(directory), grown.task, directory)
    return _difference(written, grown.logits, f"the ONNX file in {directory}")


def _check_module(env: GrowthVectorEnv) -> None:
    """Write and compare a host before growth, so that a failure appears before hours of growing."""
    with tempfile.TemporaryDirectory() as folder:
        logits = env.test_logits()[0].cpu()
        if not logits.isfinite().all():
            raise GrowingError(
                f"an untrained host has non-finite logits on the test part of {env.task.name}: the "
                "values in the data are too large for a network"
            )
        _write_compared(env.finished_network(0), env.task, logits, Path(folder))


def _write_compared(
    network: FinishedNetwork, task: Task, logits: torch.Tensor, directory: Path
) -> float:
    write_module(network, task, directory)
    written = logits_of(load_module(directory), task.raw(task.test))
    return _difference(written, logits, f"the module in {directory}")


def _difference(written: torch.Tensor, logits: torch.Tensor, what: str) -> float:
    """Return the largest difference between logits `[n, classes]` of what was written and a host.

    Raises:
        RuntimeError: it is more than rounding errors.
    """
    difference = float((written - logits).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(logits.abs().max())):
        raise RuntimeError(f"{what} differs from its host by {difference}")
    return difference

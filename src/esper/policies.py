"""Finds learnt policies by what people call them, and has them evaluated.

Runs belong to Karn and policies to Simic, which know nothing of each other; this brings them
together. Torch is loaded only when something is found.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.store.recorded_settings import settings_at_start
from esper.karn.store.run_directory import CONFIG_NAME, RunNotFoundError, default_run_dir, find_run
from esper.leyline.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    newest_whole,
    read_summary,
    unsealed_sentence,
)
from esper.leyline.plain_text import printable
from esper.leyline.suggestions import did_you_mean
from esper.leyline.task_names import check_task, parse_task_name
from esper.simic.command_progress import NO_PROGRESS, CommandProgress, NoProgress
from esper.simic.config import TrainingConfig, check_device, check_same_settings, load_config
from esper.simic.evaluation.baseline_names import BASELINES, parse_baselines
from esper.simic.requests import (
    GrowingError,
    check_evaluation,
    check_growing,
    new_folder,
)

if TYPE_CHECKING:
    from esper.simic.evaluation.contest import Evaluation
    from esper.simic.growing.growth import Grown
    from esper.simic.training.trained_policy import TrainedPolicy

#: What the policy that comes with the package is called where a run could be named.
SHIPPED_NAME = "shipped"
#: Its settings; `esper.tamiyo.shipped` itself needs torch.
_SHIPPED_CONFIG = Path(__file__).with_name("tamiyo") / "shipped" / "config.toml"


def evaluate(
    policies: Sequence[str | Path] = (),
    *,
    run_dir: str | Path | None = None,
    episodes: int = 64,
    against: Sequence[str] = BASELINES,
    rng_seed: int = 0,
    progress: CommandProgress | NoProgress = NO_PROGRESS,
) -> "Evaluation":
    """Compare learnt policies with baselines on random seeds that training never uses.

    The same arguments give the same figures, bit for bit, on CPU with as many processes and
    threads.

    Args:
        policies: runs (an id, a unique prefix, a name or a path), paths of checkpoints, or
            `"shipped"`; the newest run if empty. Several are training runs of one agent, with
            different random seeds.
        run_dir: the folder that holds runs; `ESPER_RUN_DIR` or `runs` if not given.
        episodes: episodes for each contestant, at least 2.
        against: names of baselines.
        rng_seed: seed of everything random.
        progress: shows how far the evaluation is.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError, EvaluationError, UnknownTaskError,
            UnknownBaselineError: a policy cannot be found or read, or an argument is out of range.
    """
    wanted: Sequence[str | Path | None] = policies or (None,)
    places = [locate_policy(_folder(run_dir), _text(one)) for one in wanted]
    check_evaluation([(place.name, place.config) for place in places], episodes, rng_seed)
    baselines = parse_baselines(",".join(against))
    check_task(parse_task_name(places[0].config.task))
    check_device(places[0].config.device)

    with progress:
        from esper.simic.evaluation import contest  # loads torch

        return contest.evaluate(
            [load_policy(place) for place in places],
            episodes=episodes,
            against=baselines,
            seed=rng_seed,
            say=progress.say,
            report=progress.report,
        )


def grow(
    task: str,
    out: str | Path,
    *,
    policy: str | Path = SHIPPED_NAME,
    run_dir: str | Path | None = None,
    hosts: int = 1,
    rng_seed: int = 0,
    steps: int | None = None,
    progress: CommandProgress | NoProgress = NO_PROGRESS,
) -> "Grown":
    """Let a learnt policy grow networks, and write the best one as an ordinary torch module.

    The same arguments give the same network, bit for bit, on CPU with as many threads.

    Args:
        task: the name of a task, for example `"npz:waves.npz"`.
        out: a new folder; it receives `model.py`, `weights.safetensors` and a card.
        policy: a run, the path of a checkpoint, or `"shipped"`.
        run_dir: the folder that holds runs; `ESPER_RUN_DIR` or `runs` if not given.
        hosts: networks to grow; the best by validation accuracy is written.
        rng_seed: seed of everything random.
        steps: steps of the episode; as many as the policy was trained for if not given.
        progress: shows how far growing is.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError, GrowingError, UnknownTaskError,
            InvalidTaskError, HostShapeError, SliceSizeError: an argument or the data cannot be
            used. Nothing is left in the folder then.
    """
    directory = Path(out)
    check_task(parse_task_name(task))
    check_growing(hosts, rng_seed, steps)
    place = locate_policy(_folder(run_dir), _text(policy))
    check_device(place.config.device)

    with new_folder(directory), progress:
        from esper.simic.growing import growth as growing  # loads torch
        from esper.simic.growing.growth_card import write_card

        trained = load_policy(place)
        try:
            grown = growing.grow(
                trained,
                task,
                hosts=hosts,
                seed=rng_seed,
                steps=steps,
                say=progress.say,
                report=progress.report,
            )
        except OSError as error:
            raise GrowingError(
                f"cannot write a network into the folder for temporary files: {error.strerror}"
            ) from error
        try:
            write_card(grown, growing.write_checked(grown, directory), directory)
        except OSError as error:
            raise GrowingError(f"cannot write into {directory}: {error.strerror}") from error
    return grown


def _folder(run_dir: str | Path | None) -> Path:
    return default_run_dir() if run_dir is None else Path(run_dir)


def _text(reference: str | Path | None) -> str | None:
    return None if reference is None else str(reference)


@dataclass(frozen=True)
class PolicyPlace:
    """Where a learnt policy lies.

    Attributes:
        name: the name it is shown under.
        config: the settings it was trained with.
        checkpoint: its file; None for the policy that comes with the package.
    """

    name: str
    config: TrainingConfig
    checkpoint: Path | None


def find_policy(run_dir: Path, reference: str | None) -> "TrainedPolicy":
    """Return the learnt policy that a reference names, as `locate_policy` takes it.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError, ShippedPolicyError: there is none, or it
            cannot be read.
    """
    return load_policy(locate_policy(run_dir, reference))


def locate_policy(run_dir: Path, reference: str | None) -> PolicyPlace:
    """Return where the learnt policy lies that a reference names; torch is not loaded.

    Args:
        run_dir: the folder that holds runs.
        reference: a run, as `find_run` takes it, whose newest checkpoint is read; or the path of
            a checkpoint that lies in its run; `shipped` for the one that comes with the package;
            None for the newest run.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError: there is none.
    """
    if reference == SHIPPED_NAME:
        return PolicyPlace(SHIPPED_NAME, load_config(_SHIPPED_CONFIG, ()), None)
    path = None if reference is None else Path(reference).expanduser()
    if path is not None and path.is_file() and path.suffix == ".pt":
        run, checkpoint = path.resolve().parent.parent, path
        name = f"{run.name}/{path.stem}"  # one of several of its run, perhaps
    else:
        try:
            run = find_run(run_dir, reference)
        except RunNotFoundError as error:
            if path is not None and path.suffix == ".pt":
                raise CheckpointError(f"there is no file {path}") from error
            hint = did_you_mean(reference or "", [SHIPPED_NAME])
            if not hint:
                raise
            raise RunNotFoundError(f"there is no run {reference!r}{hint}") from error
        name = run.name
        checkpoint = _newest_whole(run)
    if not (run / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{checkpoint} lies in no run: the {CONFIG_NAME} that says what it was trained for is "
            "missing"
        )
    summary = read_summary(checkpoint)
    settings: dict[str, Any] | None = summary.settings
    source = checkpoint.name
    if not summary.is_sealed:
        print(printable(unsealed_sentence(checkpoint)), file=sys.stderr)
        settings, source = settings_at_start(run), "its start event"
    config = load_config(run / CONFIG_NAME, settings)
    if settings is not None:
        check_same_settings(config, settings, source)
    return PolicyPlace(name, config, checkpoint)


def _newest_whole(run: Path) -> Path:
    """Return the newest checkpoint of a run that is whole; say which ones are damaged.

    Raises:
        CheckpointError: there is none.
    """
    path, _, passed_over = newest_whole(run / CHECKPOINTS_NAME)
    if path is None and passed_over:
        raise CheckpointError("; ".join(passed_over))
    if path is None:
        raise CheckpointError(
            f"run {run.name} has no checkpoint yet: its first comes with its first update"
        )
    for sentence in passed_over:
        print(f"{sentence}; using {path.name}", file=sys.stderr)
    return path


def load_policy(place: PolicyPlace) -> "TrainedPolicy":
    """Read a policy, and have torch use as many threads as it was trained with.

    Raises:
        CheckpointError, ShippedPolicyError: it cannot be read.
    """
    import torch

    from esper.simic.training.trained_policy import load_trained_policy, shipped_policy

    torch.set_num_threads(place.config.threads or 1)
    if place.checkpoint is None:
        policy = shipped_policy(place.name)
        if policy.caution:
            print(policy.caution, file=sys.stderr)
        return policy
    return load_trained_policy(place.checkpoint, place.config, place.name)

"""Finds trained policies by name, evaluates them and grows networks with them.

Runs belong to Karn and policies to Simic, which do not import each other; this module uses both.
PyTorch is loaded only after all arguments were checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.store.reading.recorded_settings import settings_at_start, watched_library
from esper.karn.store.run_directory import CONFIG_NAME, RunNotFoundError, default_run_dir, find_run
from esper.leyline.files.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    newest_whole,
    read_summary,
    unsealed_sentence,
)
from esper.leyline.task_names import check_task, parse_task_name
from esper.leyline.text.suggestions import did_you_mean
from esper.simic.command_progress import NO_PROGRESS, CommandProgress, NoProgress
from esper.simic.config import TrainingConfig, check_device, check_same_settings, load_config
from esper.simic.evaluation.baseline_names import DEFAULT_BASELINES, SEARCHES, parse_baselines
from esper.simic.requests import (
    EvaluationError,
    GrowingError,
    Limits,
    check_evaluation,
    check_growing,
    check_onnx,
    new_folder,
)

if TYPE_CHECKING:
    from esper.simic.evaluation.contest import Evaluation
    from esper.simic.growing.records import Grown
    from esper.simic.training.trained_policy import TrainedPolicy

#: Name of the policy that is included in the package; accepted in place of a run.
SHIPPED_NAME = "shipped"
#: Path of its settings. It is not in `esper.tamiyo.shipped`, because that imports torch.
_SHIPPED_CONFIG = Path(__file__).parents[1] / "tamiyo" / "shipped" / "config.toml"


def evaluate(
    policies: Sequence[str | Path] = (),
    *,
    run_dir: str | Path | None = None,
    episodes: int = 64,
    against: Sequence[str] = DEFAULT_BASELINES,
    rng_seed: int = 0,
    search_episodes: int | None = None,
    progress: CommandProgress | NoProgress = NO_PROGRESS,
) -> "Evaluation":
    """Compare trained policies with baselines on random seeds that training never uses.

    On CPU, with the same number of processes and threads, the same arguments give bitwise the same
    figures.

    Args:
        policies: runs (an id, a unique prefix, a name or a path), paths of checkpoints, or
            `"shipped"`; the newest run if empty. Give several to evaluate training runs of the same
            agent with different random seeds.
        run_dir: the folder that holds runs; `ESPER_RUN_DIR` or `runs` if not given.
        episodes: episodes for each contestant, at least 2.
        against: names of baselines.
        rng_seed: random seed of the evaluation.
        search_episodes: search budget of each of `random-best` and `halving`: they may use the
            multiply-adds of this number of the agent's episodes. By default as many as the policies
            were trained with.
        progress: progress reporter; also receives warnings about the checkpoints.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError: a policy cannot be found or read.
        EvaluationError, UnknownTaskError, UnknownBaselineError: an argument is invalid.
        MissingSearchLibraryError: a library is not installed.
    """
    wanted: Sequence[str | Path | None] = policies or (None,)
    places = [locate_policy(_folder(run_dir), _text(one)) for one in wanted]
    check_evaluation(
        [(place.name, place.config) for place in places], episodes, rng_seed, search_episodes
    )
    baselines = parse_baselines(",".join(against))
    if search_episodes is not None and not set(baselines) & set(SEARCHES):
        raise EvaluationError(
            f"--search-episodes only applies to --against {' and '.join(SEARCHES)}"
        )
    check_task(parse_task_name(places[0].config.task))
    check_device(places[0].config.device)
    for place in places:
        _warn(place, progress)

    with progress:
        from esper.simic.evaluation import contest  # loads torch

        return contest.evaluate(
            [_loaded(place, progress) for place in places],
            episodes=episodes,
            against=baselines,
            rng_seed=rng_seed,
            search_episodes=search_episodes,
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
    onnx: bool = False,
    finish: bool = True,
    limits: Limits | None = None,
    progress: CommandProgress | NoProgress = NO_PROGRESS,
) -> "Grown":
    """Let a trained policy grow networks, and write the best one as an ordinary PyTorch module.

    The grown network, its host without growth, the same architecture from scratch and a plain
    network of similar size are trained to convergence. The best in validation is written, or a
    smaller one that is as good. On CPU, with the same number of threads and no limit of minutes,
    the same arguments give bitwise the same network.

    Args:
        task: the name of a task, for example `"npz:waves.npz"`.
        out: a new folder; it receives `model.py`, `weights.safetensors` and a card.
        policy: a run, the path of a checkpoint, or `"shipped"`.
        run_dir: the folder that holds runs; `ESPER_RUN_DIR` or `runs` if not given.
        hosts: number of networks to grow; the best by validation accuracy is written.
        rng_seed: random seed.
        steps: number of steps to grow; by default as in the training of the policy.
        onnx: whether to write `model.onnx` too; needs the `onnx` extra.
        finish: whether to train to convergence and compare; otherwise the grown network is written
            as it is when growing ends.
        limits: what the network may cost.
        progress: progress reporter; also receives warnings about the checkpoint.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError: the policy cannot be found or read.
        GrowingError, UnknownTaskError: an argument is invalid, or a file cannot be written.
        InvalidTaskError, HostShapeError, SliceSizeError: the data cannot be used.
    """
    directory = Path(out)
    check_task(parse_task_name(task))
    check_growing(hosts, rng_seed, steps)
    limits = limits or Limits()
    if not finish and limits.price:
        raise GrowingError("--price chooses among finished networks: leave out --no-finish")
    if onnx:
        check_onnx()
    place = locate_policy(_folder(run_dir), _text(policy))
    check_device(place.config.device)
    _warn(place, progress)

    with new_folder(directory), progress:
        from esper.simic.growing import growth as growing  # loads torch
        from esper.simic.growing import writing
        from esper.simic.growing.growth_card import write_card

        trained = _loaded(place, progress)
        try:
            grown = growing.grow(
                trained,
                task,
                num_hosts=hosts,
                rng_seed=rng_seed,
                steps=steps,
                limits=limits,
                finishes=finish,
                say=progress.say,
                report=progress.report,
            )
        except OSError as error:
            raise GrowingError(
                f"cannot write a network into the folder for temporary files: {error.strerror}"
            ) from error
        try:
            difference = writing.write_checked(grown, directory)
            onnx_difference = writing.write_onnx_checked(grown, directory) if onnx else None
            write_card(grown, difference, directory, onnx_difference)
        except OSError as error:
            raise GrowingError(f"cannot write into {directory}: {error.strerror}") from error
    return grown


def _warn(place: "PolicyPlace", progress: CommandProgress | NoProgress) -> None:
    for sentence in place.warnings:
        progress.warn(sentence)


def _loaded(place: "PolicyPlace", progress: CommandProgress | NoProgress) -> "TrainedPolicy":
    policy = load_policy(place)
    if policy.caution:
        progress.warn(policy.caution)
    return policy


def _folder(run_dir: str | Path | None) -> Path:
    return default_run_dir() if run_dir is None else Path(run_dir)


def _text(reference: str | Path | None) -> str | None:
    return None if reference is None else str(reference)


@dataclass(frozen=True)
class PolicyPlace:
    """The file of a trained policy.

    Attributes:
        name: name for messages and results.
        config: the settings it was trained with.
        checkpoint: its file; None for the policy that is included in the package.
        warnings: a sentence for each damaged checkpoint that was skipped or could not be checked.
    """

    name: str
    config: TrainingConfig
    checkpoint: Path | None
    warnings: tuple[str, ...] = ()


def find_policy(run_dir: Path, reference: str | None) -> "TrainedPolicy":
    """Return a trained policy; for the arguments see `locate_policy`.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError, ShippedPolicyError: there is no such policy,
            or it cannot be read.
    """
    return load_policy(locate_policy(run_dir, reference))


def locate_policy(run_dir: Path, reference: str | None) -> PolicyPlace:
    """Find the file of a trained policy, without loading torch.

    Args:
        run_dir: the folder that holds runs.
        reference: a run, as for `find_run`, for its newest checkpoint; the path of a checkpoint in
            the folder of its run; `shipped` for the policy that is included in the package; None
            for the newest run.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError: there is no such policy.
    """
    if reference == SHIPPED_NAME:
        return PolicyPlace(SHIPPED_NAME, load_config(_SHIPPED_CONFIG, ()), None)
    warnings: list[str] = []
    path = None if reference is None else Path(reference).expanduser()
    if path is not None and path.is_file() and path.suffix == ".pt":
        run, checkpoint = path.resolve().parent.parent, path
        name = f"{run.name}/{path.stem}"  # distinct for several checkpoints of one run
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
        checkpoint, warnings = _newest_whole(run)
    if not (run / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{checkpoint} is not in the folder of a run: the {CONFIG_NAME} with its settings is "
            "missing"
        )
    summary = read_summary(checkpoint)
    settings: dict[str, Any] | None = summary.settings
    source = checkpoint.name
    if not summary.is_sealed:
        warnings.append(unsealed_sentence(checkpoint))
        settings, source = settings_at_start(run), "its start event"
    config = load_config(run / CONFIG_NAME, settings)
    if settings is not None:
        check_same_settings(config, settings, source)
    return PolicyPlace(name, config, checkpoint, tuple(warnings))


def _newest_whole(run: Path) -> tuple[Path, list[str]]:
    """Return the newest undamaged checkpoint of a run, and a sentence for each damaged one.

    Raises:
        CheckpointError: there is no undamaged checkpoint.
    """
    path, _, passed_over = newest_whole(run / CHECKPOINTS_NAME)
    if path is None and passed_over:
        raise CheckpointError("; ".join(passed_over))
    if path is None and (library := watched_library(run)):
        raise CheckpointError(
            f"{run.name} is a watched run ({library}): it contains no policy of Esper's agent"
        )
    if path is None:
        raise CheckpointError(
            f"run {run.name} has no checkpoint yet: the first one is written after the first update"
        )
    return path, [f"{sentence}; using {path.name}" for sentence in passed_over]


def load_policy(place: PolicyPlace) -> "TrainedPolicy":
    """Read a policy, and set torch to the number of threads it was trained with.

    Raises:
        CheckpointError, ShippedPolicyError: the policy cannot be read.
    """
    import torch

    from esper.simic.training.trained_policy import load_trained_policy, shipped_policy

    torch.set_num_threads(place.config.threads or 1)
    if place.checkpoint is None:
        return shipped_policy(place.name)
    return load_trained_policy(place.checkpoint, place.config, place.name)

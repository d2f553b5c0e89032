"""Finds learnt policies by what people call them, and has them evaluated.

Runs belong to Karn and policies to Simic, which know nothing of each other; this brings them
together. Torch is loaded only when something is found.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.karn.recorded_settings import settings_at_start
from esper.karn.run_directory import CONFIG_NAME, RunNotFoundError, find_run
from esper.leyline.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    newest_whole,
    read_summary,
    unsealed_sentence,
)
from esper.leyline.durable_files import write_output
from esper.leyline.plain_text import printable
from esper.leyline.suggestions import did_you_mean
from esper.leyline.task_names import check_task, parse_task_name
from esper.simic.config import TrainingConfig, check_device, check_same_settings, load_config
from esper.simic.requests import (
    EvaluationError,
    GrowingError,
    check_evaluation,
    check_growing,
    check_picture,
    new_folder,
)

if TYPE_CHECKING:
    from esper.simic.trained_policy import TrainedPolicy

#: What the policy that comes with the package is called where a run could be named.
SHIPPED_NAME = "shipped"
#: Its settings; `esper.tamiyo.shipped` itself needs torch.
_SHIPPED_CONFIG = Path(__file__).with_name("tamiyo") / "shipped" / "config.toml"


def evaluate_policies(
    run_dir: Path,
    references: Sequence[str],
    *,
    episodes: int,
    against: Sequence[str],
    seed: int,
    as_json: bool,
    picture: Path | None,
) -> int:
    """Compare learnt policies with baselines, tell what came of it, and return the exit code.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError, EvaluationError: a policy cannot be found
            or read, or what was asked for makes no sense; the message is one clear sentence.
    """
    if picture is not None:
        check_picture(picture)
    wanted: Sequence[str | None] = references or (None,)
    places = [locate_policy(run_dir, reference) for reference in wanted]
    check_evaluation([(place.name, place.config) for place in places], episodes, seed)
    check_task(parse_task_name(places[0].config.task))
    check_device(places[0].config.device)

    from esper.simic.command_progress import CommandProgress

    with CommandProgress() as progress:
        from esper.simic import evaluation_report
        from esper.simic.contest import evaluate
        from esper.simic.evaluation_plot import evaluation_plot

        result = evaluate(
            [load_policy(place) for place in places],
            episodes=episodes,
            against=against,
            seed=seed,
            say=progress.say,
            report=progress.report,
        )
    trouble = None  # the report is printed all the same
    if picture is not None:
        try:
            write_output(picture, evaluation_plot(result))
        except OSError as error:
            trouble = EvaluationError(f"cannot write {picture}: {error.strerror}")
    if as_json:
        print(json.dumps(evaluation_report.evaluation_as_json(result), indent=2))
    else:
        evaluation_report.print_evaluation(result, evaluation_report.make_console())
    if trouble is not None:
        raise trouble
    return 0


def grow_network(
    run_dir: Path,
    reference: str,
    task: str,
    directory: Path,
    *,
    hosts: int,
    seed: int,
    steps: int | None,
) -> int:
    """Let a policy grow a network, write it into a directory, and return the exit code.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError, GrowingError, UnknownTaskError,
            InvalidTaskError, HostShapeError, SliceSizeError: something that was asked for is not
            there or makes no sense; the message is one clear sentence.
    """
    check_task(parse_task_name(task))
    check_growing(hosts, seed, steps)
    place = locate_policy(run_dir, reference)
    check_device(place.config.device)
    from esper.simic.command_progress import CommandProgress

    with new_folder(directory), CommandProgress() as progress:
        from esper.simic.growing import grow, write_checked
        from esper.simic.growth_card import CARD_NAME, PICTURE_NAME, growth_card, growth_summary
        from esper.simic.growth_picture import growth_picture

        policy = load_policy(place)
        try:
            grown = grow(
                policy,
                task,
                hosts=hosts,
                seed=seed,
                steps=steps,
                say=progress.say,
                report=progress.report,
            )
        except OSError as error:
            raise GrowingError(
                f"cannot write a network into the folder for temporary files: {error.strerror}"
            ) from error
        try:
            difference = write_checked(grown, directory)
            card = growth_card(grown, difference)
            (directory / CARD_NAME).write_text(card, encoding="utf-8")
            (directory / PICTURE_NAME).write_text(growth_picture(grown), encoding="utf-8")
        except OSError as error:
            raise GrowingError(f"cannot write into {directory}: {error.strerror}") from error
    print(growth_summary(grown))
    print(f"written into {directory}: {', '.join(sorted(f.name for f in directory.iterdir()))}")
    return 0


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

    from esper.simic.trained_policy import load_trained_policy, shipped_policy

    torch.set_num_threads(place.config.threads or 1)
    if place.checkpoint is None:
        policy = shipped_policy(place.name)
        if policy.caution:
            print(policy.caution, file=sys.stderr)
        return policy
    return load_trained_policy(place.checkpoint, place.config, place.name)

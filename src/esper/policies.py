"""Finds learnt policies by what people call them, and has them evaluated.

Runs belong to Karn and policies to Simic, which know nothing of each other; this brings them
together. Torch is loaded only when something is found.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper.karn.run_store import CONFIG_NAME, RunNotFoundError, find_run
from esper.leyline.checkpoint_file import (
    CHECKPOINTS_NAME,
    CheckpointError,
    newest_whole,
    read_summary,
)
from esper.simic.config import check_same_settings, load_config

if TYPE_CHECKING:
    from esper.simic.trained_policy import TrainedPolicy

#: What the policy that comes with the package is called where a run could be named.
SHIPPED_NAME = "shipped"


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
    from esper.simic import evaluation_report
    from esper.simic.contest import EvaluationError, evaluate
    from esper.simic.evaluation_plot import evaluation_plot

    def say(what: str) -> None:
        print(what, file=sys.stderr)

    if picture is not None:
        _check_picture(picture)
    wanted: Sequence[str | None] = references or (None,)
    policies = [find_policy(run_dir, reference) for reference in wanted]
    result = evaluate(policies, episodes=episodes, against=against, seed=seed, say=say)
    if picture is not None:
        try:
            picture.write_text(evaluation_plot(result), encoding="utf-8")
        except OSError as error:
            raise EvaluationError(f"cannot write {picture}: {error.strerror}") from error
    if as_json:
        print(json.dumps(evaluation_report.evaluation_as_json(result), indent=2))
    else:
        evaluation_report.print_evaluation(result, evaluation_report.make_console())
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
    from esper.leyline.task_names import parse_task_name
    from esper.simic.growing import GrowingError, grow, new_folder, write_checked
    from esper.simic.growth_card import CARD_NAME, PICTURE_NAME, growth_card, growth_summary
    from esper.simic.growth_picture import growth_picture

    def say(what: str) -> None:
        print(what, file=sys.stderr)

    parse_task_name(task)  # before anything is loaded
    policy = find_policy(run_dir, reference)
    with new_folder(directory):
        grown = grow(policy, task, hosts=hosts, seed=seed, steps=steps, say=say)
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


def _check_picture(path: Path) -> None:
    """Raise at once what would otherwise be raised when everything has been run."""
    from esper.simic.contest import EvaluationError

    if path.suffix != ".svg":
        raise EvaluationError(f"--plot draws SVG, so its file must end in .svg, not {path.name!r}")
    if not path.parent.is_dir():
        raise EvaluationError(f"cannot write {path}: there is no folder {path.parent}")


def find_policy(run_dir: Path, reference: str | None) -> "TrainedPolicy":
    """Return the learnt policy that a reference names.

    Args:
        run_dir: the folder that holds runs.
        reference: a run, as `find_run` takes it, whose newest checkpoint is read; or the path of
            a checkpoint that lies in its run; `shipped` for the one that comes with the package;
            None for the newest run.

    Raises:
        RunNotFoundError, CheckpointError, ConfigError, ShippedPolicyError: there is none, or it
            cannot be read.
    """
    import torch

    from esper.simic.trained_policy import load_trained_policy, shipped_policy

    if reference == SHIPPED_NAME:
        shipped = shipped_policy(SHIPPED_NAME)
        torch.set_num_threads(shipped.config.threads or 1)
        return shipped
    path = None if reference is None else Path(reference).expanduser()
    if path is not None and path.is_file() and path.suffix == ".pt":
        run, checkpoint = path.resolve().parent.parent, path
        name = f"{run.name}/{path.stem}"  # one of several of its run, perhaps
    else:
        try:
            run = find_run(run_dir, reference)
        except RunNotFoundError as error:
            if path is None or path.suffix != ".pt":
                raise
            raise CheckpointError(f"there is no file {path}") from error
        name = run.name
        checkpoint = _newest_whole(run)
    if not (run / CONFIG_NAME).is_file():
        raise CheckpointError(
            f"{checkpoint} lies in no run: the {CONFIG_NAME} that says what it was trained for is "
            "missing"
        )
    settings = read_summary(checkpoint).settings
    config = load_config(run / CONFIG_NAME, settings)
    check_same_settings(config, settings, checkpoint.name)
    torch.set_num_threads(config.threads or 1)
    return load_trained_policy(checkpoint, config, name)


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

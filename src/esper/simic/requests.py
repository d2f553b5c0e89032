"""Checks of what is asked of evaluation and growing, made before torch is loaded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from esper.leyline.errors import EsperError
from esper.simic.config import TrainingConfig

#: Networks that are grown at a time, at most.
MOST_HOSTS = 256


class EvaluationError(EsperError, ValueError):
    """What was asked for cannot be evaluated; the message is one clear sentence."""


class GrowingError(EsperError, ValueError):
    """What was asked for cannot be grown or written; the message is one clear sentence."""


def check_evaluation(
    policies: Sequence[tuple[str, TrainingConfig]], episodes: int, seed: int
) -> None:
    """Check what an evaluation is to compare.

    Args:
        policies: name and training settings of each.
        episodes: number of episodes for each contestant.
        seed: random seed of the evaluation.

    Raises:
        EvaluationError: too few episodes, a negative seed, or policies of different tasks.
    """
    if episodes < 2:
        raise EvaluationError(f"--episodes must be at least 2 for an interval, not {episodes}")
    if seed < 0:
        raise EvaluationError(f"--seed must be 0 or more, not {seed}")
    first, config = policies[0]
    for other, others in policies[1:]:
        for name in ("task", "steps", "gamma"):
            own, theirs = getattr(config, name), getattr(others, name)
            if own != theirs:
                raise EvaluationError(
                    f"{first} was trained with {name} {own} and {other} with {theirs}: "
                    "policies that are evaluated together must have been trained on the same"
                )


def check_picture(path: Path) -> None:
    """Check where a plot is to be written.

    Raises:
        EvaluationError: it is not an SVG file, or its folder does not exist.
    """
    if path.suffix != ".svg":
        raise EvaluationError(f"--plot draws SVG, so its file must end in .svg, not {path.name!r}")
    if not path.parent.is_dir():
        raise EvaluationError(f"cannot write {path}: there is no folder {path.parent}")


def check_growing(hosts: int, seed: int, steps: int | None) -> None:
    """Check the options of growing.

    Raises:
        GrowingError: a number is out of its range.
    """
    if not 1 <= hosts <= MOST_HOSTS:
        raise GrowingError(f"--hosts must be 1 to {MOST_HOSTS}, not {hosts}")
    if seed < 0:
        raise GrowingError(f"--seed must be 0 or more, not {seed}")
    if steps is not None and steps < 1:
        raise GrowingError(f"--steps must be at least 1, not {steps}")


@contextmanager
def new_folder(directory: Path) -> Iterator[None]:
    """Make a folder for a network, or accept an empty one; on an error nothing is left in it.

    Raises:
        GrowingError: it holds something, or cannot be made.
    """
    made = [each for each in (directory, *directory.parents) if not each.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = next(directory.iterdir(), None)
    except OSError as error:
        raise GrowingError(f"cannot write into {directory}: {error.strerror}") from error
    if held is not None:
        raise GrowingError(
            f"{directory} is not empty, it holds {held.name}: name a new folder for the network"
        )
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for file in list(directory.iterdir()):
                file.unlink()
            for each in made:
                each.rmdir()
        raise

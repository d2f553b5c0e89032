"""Checks of the arguments of evaluation and growing, made before torch is loaded."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from esper.leyline.errors import EsperError
from esper.leyline.text.command_lines import install_command
from esper.simic.config import TrainingConfig

#: Maximum number of networks that grow at a time.
MOST_HOSTS = 256


class EvaluationError(EsperError, ValueError):
    """The arguments of an evaluation cannot be used; the message is one clear sentence."""


class GrowingError(EsperError, ValueError):
    """A network cannot be grown or written; the message is one clear sentence."""


def check_evaluation(
    policies: Sequence[tuple[str, TrainingConfig]],
    episodes: int,
    rng_seed: int,
    search_episodes: int | None = None,
) -> None:
    """Check the arguments of an evaluation.

    Args:
        policies: name and training settings of each.
        episodes: number of episodes for each contestant.
        rng_seed: random seed of the evaluation.
        search_episodes: episodes of the agent whose cost a search may spend.

    Raises:
        EvaluationError: too few episodes, a negative random seed, or policies of different tasks.
    """
    if episodes < 2:
        raise EvaluationError(
            f"--episodes must be at least 2, for a confidence interval, not {episodes}"
        )
    if rng_seed < 0:
        raise EvaluationError(f"--seed must be 0 or more, not {rng_seed}")
    if search_episodes is not None and search_episodes < 1:
        raise EvaluationError(f"--search-episodes must be at least 1, not {search_episodes}")
    first, config = policies[0]
    for other, others in policies[1:]:
        for name in ("task", "steps", "gamma"):
            own, theirs = getattr(config, name), getattr(others, name)
            if own != theirs:
                raise EvaluationError(
                    f"{first} was trained with {name} {own} and {other} with {theirs}: "
                    "policies can only be evaluated together if these are the same"
                )


def check_picture(path: Path) -> None:
    """Check the file of a plot.

    Raises:
        EvaluationError: it is not an SVG file, or its folder does not exist.
    """
    if path.suffix != ".svg":
        raise EvaluationError(f"--plot {path}: the file's name must end in .svg")
    if not path.parent.is_dir():
        raise EvaluationError(f"--plot {path}: there is no folder {path.parent}")


def check_growing(num_hosts: int, rng_seed: int, steps: int | None) -> None:
    """Check the options of growing.

    Raises:
        GrowingError: a number is out of its range.
    """
    if not 1 <= num_hosts <= MOST_HOSTS:
        raise GrowingError(f"--hosts must be 1 to {MOST_HOSTS}, not {num_hosts}")
    if rng_seed < 0:
        raise GrowingError(f"--seed must be 0 or more, not {rng_seed}")
    if steps is not None and steps < 1:
        raise GrowingError(f"--steps must be at least 1, not {steps}")


@dataclass(frozen=True)
class Limits:
    """What a network may cost; None is no limit.

    Attributes:
        parameters: number of parameters.
        bytes: bytes of its weights.
        multiply_adds: of its forward pass of one sample.
        minutes: time for growing and finishing.
        price: accuracy that a network must win for each doubling of the ungrown host's parameters.

    Raises:
        GrowingError: a number is out of its range.
    """

    parameters: int | None = None
    bytes: int | None = None
    multiply_adds: int | None = None
    minutes: float | None = None
    price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("parameters", "bytes", "multiply_adds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = f"--max-{name.replace('_', '-')}"
                raise GrowingError(f"{option} must be at least 1, not {value}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise GrowingError(f"--minutes must be above 0, not {self.minutes:g}")
        if not 0 <= self.price < math.inf:
            raise GrowingError(f"--price must be 0 or more, not {self.price:g}")


def check_onnx() -> None:
    """Check that the packages of the `onnx` extra are installed.

    Raises:
        GrowingError: one of them is missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise GrowingError(
            f"--onnx needs the onnx extra ({', '.join(missing)} is not installed): "
            f"{install_command('onnx')}"
        )


@contextmanager
def new_folder(directory: Path) -> Iterator[None]:
    """Create a folder for a network, or accept an empty one; after an error it is empty again.

    Raises:
        GrowingError: the folder is not empty, or cannot be created.
    """
    made = [each for each in (directory, *directory.parents) if not each.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = next(directory.iterdir(), None)
    except OSError as error:
        raise GrowingError(f"cannot write into {directory}: {error.strerror}") from error
    if held is not None:
        raise GrowingError(f"{directory} is not empty: it contains {held.name}; give a new folder")
    try:
        yield
    except BaseException:  # KeyboardInterrupt, too; raised again
        with suppress(OSError):
            for file in list(directory.iterdir()):
                file.unlink()
            for each in made:
                each.rmdir()
        raise

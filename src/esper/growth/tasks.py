"""What the hosts learn: small classification tasks, each with a part the agent never sees.

To add a task, write a function that returns a `Task` and name it in `TASK_LOADERS`; or make a
`Task` of your own and hand it to the environment as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from esper.growth.mnist1d_cache import load_mnist1d_arrays

#: Samples of MNIST-1D's training part that become the validation part.
MNIST1D_VALIDATION = 800
#: Samples of the digits that become the validation and the test part; the other 1,200 train.
DIGITS_VALIDATION, DIGITS_TEST = 237, 360

# Which samples go where is part of what a task is, so it does not follow the seed of a run.
_SPLIT_SEED = 1998


class UnknownTaskError(ValueError):
    """There is no task of this name."""


class InvalidTaskError(ValueError):
    """The parts of a task do not fit together."""


@dataclass(frozen=True)
class Split:
    """One part of a task's data.

    Attributes:
        inputs: `[n, C, *P]`, floating point.
        labels: `[n]`, int64, from 0 to classes - 1.
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        name: its name.
        train: what the hosts learn from.
        validation: what their accuracy is measured on, for the agent to see and be paid for.
        test: for final scores alone.
        classes: how many there are.
        channels: of a host for it, unless its maker says otherwise: too few, so that growth has
            something to win.

    Raises:
        InvalidTaskError: a part is empty, or its shapes, labels or types do not fit.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    channels: int = 8

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            where = f"the {part} part of task {self.name!r}"
            if len(split) == 0 or len(split.inputs) != len(split.labels):
                raise InvalidTaskError(
                    f"{where} has {len(split.inputs)} inputs and {len(split.labels)} labels: "
                    "it needs as many of one as of the other, and at least one"
                )
            if split.inputs.shape[1:] != self.train.inputs.shape[1:]:
                raise InvalidTaskError(
                    f"{where} has inputs of shape {tuple(split.inputs.shape[1:])}: all parts must "
                    f"have those of the train part, {tuple(self.train.inputs.shape[1:])}"
                )
            if not split.inputs.is_floating_point() or split.labels.dtype != torch.int64:
                raise InvalidTaskError(f"{where} must have floating inputs and int64 labels")
            if split.labels.min() < 0 or split.labels.max() >= self.classes:
                raise InvalidTaskError(f"{where} has labels outside 0 to {self.classes - 1}")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels and positions of one input: `(C, L)` or `(C, H, W)`."""
        return tuple(self.train.inputs.shape[1:])


def _standardised(
    name: str,
    classes: int,
    channels: int,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> Task:
    """Build a task of parts given as inputs `[n, C, *P]` and labels `[n]`.

    All inputs are shifted and scaled to the mean 0 and standard deviation 1 of the training part.
    """
    mean, deviation = train[0].mean(), train[0].std()

    def split(inputs: np.ndarray, labels: np.ndarray) -> Split:
        return Split(
            torch.from_numpy(((inputs - mean) / deviation).astype(np.float32)),
            torch.from_numpy(labels.astype(np.int64)),
        )

    return Task(name, split(*train), split(*validation), split(*test), classes, channels)


def _load_mnist1d() -> Task:
    """Greydanus, "Scaling down deep learning" (2020): 40-long signals of ten digit shapes."""
    arrays = load_mnist1d_arrays()
    inputs, labels = arrays.inputs[:, None, :], arrays.labels
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    held, kept = order[:MNIST1D_VALIDATION], order[MNIST1D_VALIDATION:]
    return _standardised(
        "mnist1d",
        10,
        8,
        (inputs[kept], labels[kept]),
        (inputs[held], labels[held]),
        (arrays.test_inputs[:, None, :], arrays.test_labels),
    )


def _load_digits() -> Task:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits  # a second of imports that mnist1d does not need

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    test, validation, train = np.split(order, [DIGITS_TEST, DIGITS_TEST + DIGITS_VALIDATION])
    return _standardised(
        "digits",
        10,
        4,
        (images[train], labels[train]),
        (images[validation], labels[validation]),
        (images[test], labels[test]),
    )


TASK_LOADERS: dict[str, Callable[[], Task]] = {"mnist1d": _load_mnist1d, "digits": _load_digits}


def load_task(name: str) -> Task:
    """Return the task of this name.

    Raises:
        UnknownTaskError: there is none.
    """
    loader = TASK_LOADERS.get(name)
    if loader is None:
        known = ", ".join(sorted(TASK_LOADERS))
        raise UnknownTaskError(f"there is no task {name!r}: the tasks are {known}")
    return loader()

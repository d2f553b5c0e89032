"""Training tasks of the hosts: classification, with a test part that the agent never sees.

`esper.leyline.task_names` has the names of tasks and the table of their sources. A `Task` object of
your own can also be handed to the environment directly.
"""

import importlib
from collections.abc import Callable

import numpy as np
import torch

from esper.growth.tasks.sources.mnist1d_cache import load_mnist1d_arrays
from esper.growth.tasks.task import InvalidTaskError, Split, Standardisation, Task
from esper.leyline.task_names import (
    SOURCE_BY_NAME,
    TaskName,
    TaskSource,
    UnknownTaskError,
    parse_task_name,
)

__all__ = ["InvalidTaskError", "Split", "Task", "UnknownTaskError", "load_task"]

#: Samples of MNIST-1D's training part that become the validation part.
MNIST1D_VALIDATION = 800
#: Samples of the digits that become the validation and the test part; the other 1,200 train.
DIGITS_VALIDATION, DIGITS_TEST = 237, 360

# The split is part of the task, so it does not depend on the random seed of a run.
_SPLIT_RNG_SEED = 1998


def _standardised(
    name: str,
    classes: int,
    channels: int,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> Task:
    """Build a task from parts: inputs `[n, 1, *P]` and labels `[n]`.

    Inputs are standardised by the mean and standard deviation of the training part.
    """
    mean, std = train[0].mean(), train[0].std()

    def split(inputs: np.ndarray, labels: np.ndarray) -> Split:
        return Split(
            torch.from_numpy(((inputs - mean) / std).astype(np.float32)),
            torch.from_numpy(labels.astype(np.int64)),
        )

    return Task(
        name,
        split(*train),
        split(*validation),
        split(*test),
        classes,
        channels,
        Standardisation((float(mean),), (float(std),)),
        channel_axis="none",
    )


def load_mnist1d(_: TaskName) -> Task:
    """Load MNIST-1D (Greydanus, "Scaling down deep learning", 2020): signals of length 40."""
    arrays = load_mnist1d_arrays()
    inputs, labels = arrays.inputs[:, None, :], arrays.labels
    order = np.random.default_rng(_SPLIT_RNG_SEED).permutation(len(labels))
    held, kept = order[:MNIST1D_VALIDATION], order[MNIST1D_VALIDATION:]
    return _standardised(
        "mnist1d",
        10,
        8,
        (inputs[kept], labels[kept]),
        (inputs[held], labels[held]),
        (arrays.test_inputs[:, None, :], arrays.test_labels),
    )


def load_digits(_: TaskName) -> Task:
    """Load scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits  # a second of imports that mnist1d does not need

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8)
    order = np.random.default_rng(_SPLIT_RNG_SEED).permutation(len(labels))
    test, validation, train = np.split(order, [DIGITS_TEST, DIGITS_TEST + DIGITS_VALIDATION])
    return _standardised(
        "digits",
        10,
        8,
        (images[train], labels[train]),
        (images[validation], labels[validation]),
        (images[test], labels[test]),
    )


def load_task(text: str) -> Task:
    """Load the task of a name.

    Raises:
        UnknownTaskError: no task has this name.
        InvalidTaskError: its data is missing or cannot be used.
    """
    name = parse_task_name(text)
    return loader_of(SOURCE_BY_NAME[name.source])(name)


def loader_of(source: TaskSource) -> Callable[[TaskName], Task]:
    """Import the function that loads the tasks of a source."""
    module, _, function = source.loader.partition(":")
    loader: Callable[[TaskName], Task] = getattr(importlib.import_module(module), function)
    return loader

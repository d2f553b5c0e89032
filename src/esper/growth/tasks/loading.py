"""What the hosts learn: classification tasks, each with a part the agent never sees.

A task is named `mnist1d`, `digits` or `cifar10`, or by where its data is: `npz:FILE.npz`,
`hf:NAME`, `cifar10:FOLDER`, `chars:FILE.txt`; `esper.leyline.task_names` has the whole of it.

To add a task, write a function that returns a `Task` and name it in `TASK_LOADERS`; or make a
`Task` of your own and hand it to the environment as it is.
"""

from collections.abc import Callable

import numpy as np
import torch

from esper.growth.tasks.mnist1d_cache import load_mnist1d_arrays
from esper.growth.tasks.task import InvalidTaskError, Split, Standardisation, Task
from esper.leyline.task_names import TaskName, UnknownTaskError, parse_task_name

__all__ = ["InvalidTaskError", "Split", "Task", "UnknownTaskError", "load_task"]

#: Samples of MNIST-1D's training part that become the validation part.
MNIST1D_VALIDATION = 800
#: Samples of the digits that become the validation and the test part; the other 1,200 train.
DIGITS_VALIDATION, DIGITS_TEST = 237, 360

# Which samples go where is part of what a task is, so it does not follow the seed of a run.
_SPLIT_SEED = 1998


def _standardised(
    name: str,
    classes: int,
    channels: int,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> Task:
    """Build a task of parts given as inputs `[n, 1, *P]` and labels `[n]`.

    All inputs are shifted and scaled to the mean 0 and standard deviation 1 of the training part.
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


def _load_mnist1d(_: TaskName) -> Task:
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


def _load_digits(_: TaskName) -> Task:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits  # a second of imports that mnist1d does not need

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    test, validation, train = np.split(order, [DIGITS_TEST, DIGITS_TEST + DIGITS_VALIDATION])
    return _standardised(
        "digits",
        10,
        8,
        (images[train], labels[train]),
        (images[validation], labels[validation]),
        (images[test], labels[test]),
    )


def _load_npz(name: TaskName) -> Task:
    from esper.growth.tasks.npz import load_npz

    return load_npz(name)


def _load_hugging_face(name: TaskName) -> Task:
    from esper.growth.tasks.hugging_face import load_hugging_face

    return load_hugging_face(name)


def _load_cifar10(name: TaskName) -> Task:
    from esper.growth.tasks.cifar10 import load_cifar10

    return load_cifar10(name)


def _load_characters(name: TaskName) -> Task:
    from esper.growth.tasks.characters import load_characters

    return load_characters(name)


TASK_LOADERS: dict[str, Callable[[TaskName], Task]] = {
    "mnist1d": _load_mnist1d,
    "digits": _load_digits,
    "cifar10": _load_cifar10,
    "npz": _load_npz,
    "hf": _load_hugging_face,
    "chars": _load_characters,
}


def load_task(text: str) -> Task:
    """Return the task of this name.

    Raises:
        UnknownTaskError: there is none.
        InvalidTaskError: its data is missing or cannot be used.
    """
    name = parse_task_name(text)
    return TASK_LOADERS[name.source](name)

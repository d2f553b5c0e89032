"""Stratified folds of a small task: several divisions into training and validation part."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch

from esper.growth.tasks.task import Split, Task

#: Training and validation samples below which a task is folded, and below which folds are repeated.
FOLDED_BELOW, REPEATED_BELOW = 500, 100
#: Number of folds, and of repetitions of them in a task that is small enough for that.
FOLDS, REPEATS = 5, 2
# Folds are part of the task, so they do not depend on the random seed of a run.
_RNG_SEED = 1998


@dataclass(frozen=True)
class Folds:
    """Divisions of all samples of a task but those of its test part.

    Attributes:
        whole: all these samples.
        tasks: the task with another division in each.
        trained: the samples of each task's training part, as rows of `whole`. Each `[m]`
        rows: the samples of each task's validation part, as rows of `whole`; of a task that is not
            folded, as rows of its validation part. Each `[n]`
        repeats: how often each sample is in a validation part.
    """

    whole: Split
    tasks: tuple[Task, ...]
    trained: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]
    repeats: int


def is_folded(task: Task) -> bool:
    """Return whether a task has too few samples for one validation part.

    A validation part that the user gave is kept.
    """
    few = len(task.train) + len(task.validation) < FOLDED_BELOW
    return few and "validation" in task.drawn


def folds_of(task: Task) -> Folds:
    """Return stratified folds of the training and validation part, always the same.

    There are `FOLDS`, or as many as the smallest class has samples, at least 2. All tasks have the
    standardisation of the task.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold  # a second of imports

    whole = replace(
        task.train,
        inputs=torch.cat([task.train.inputs, task.validation.inputs]),
        labels=torch.cat([task.train.labels, task.validation.labels]),
    )
    sizes = whole.labels.bincount(minlength=task.classes)
    folds = max(2, min(FOLDS, int(sizes[sizes > 0].min())))
    repeats = REPEATS if len(whole) < REPEATED_BELOW else 1
    splitter = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=_RNG_SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # is in the task's notes
        divided = list(splitter.split(np.zeros(len(whole)), whole.labels.numpy()))
    return Folds(
        whole,
        tuple(
            replace(task, train=_take(whole, kept), validation=_take(whole, held))
            for kept, held in divided
        ),
        tuple(np.sort(kept) for kept, _ in divided),
        tuple(np.sort(held) for _, held in divided),
        repeats,
    )


def unfolded(task: Task) -> Folds:
    """Return the only division of a task that is not folded."""
    rows = np.arange(len(task.train)), np.arange(len(task.validation))
    return Folds(task.train, (task,), rows[:1], rows[1:], 1)


def _take(split: Split, rows: np.ndarray) -> Split:
    index = torch.from_numpy(np.sort(rows))
    return replace(split, inputs=split.inputs[index], labels=split.labels[index])

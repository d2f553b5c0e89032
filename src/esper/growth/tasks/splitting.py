"""Draw missing parts of a user's data from its training part, stratified by class."""

import numpy as np

from esper.growth.tasks.samples import Samples
from esper.growth.tasks.task import InvalidTaskError

#: Share of the samples that becomes the validation part, and the test part if none is given.
VALIDATION_SHARE, TEST_SHARE = 0.2, 0.2
#: The validation part is measured after every slice of training: more samples would cost too much.
LARGEST_VALIDATION = 1000
# The split is part of the task, so it does not depend on the random seed of a run.
_SPLIT_RNG_SEED = 1998


def draw_parts(given: dict[str, Samples]) -> dict[str, Samples]:
    """Return all three parts; those that are not given are drawn from the training part.

    Raises:
        InvalidTaskError: there are too few samples to draw a part.
    """
    whole = given["train"]
    order = np.random.default_rng(_SPLIT_RNG_SEED).permutation(len(whole))
    drawn: dict[str, np.ndarray] = {}
    missing = [part for part in ("test", "validation") if part not in given]
    for part in missing:
        share, most = (
            (TEST_SHARE, len(whole)) if part == "test" else (VALIDATION_SHARE, LARGEST_VALIDATION)
        )
        count = min(int(share * len(order)), most)
        if count == 0:
            raise InvalidTaskError(f"{len(whole)} samples are too few to draw a {part} part")
        parts_after = len(missing) - len(drawn)  # the train part included
        chosen = _stratified(whole.labels[order], count, parts_after)
        drawn[part], order = order[chosen], order[~chosen]
    if not drawn:
        return given
    return {
        "train": whole.take(order),
        **{part: whole.take(index) for part, index in drawn.items()},
        **{part: samples for part, samples in given.items() if part != "train"},
    }


def _stratified(labels: np.ndarray, count: int, parts_after: int) -> np.ndarray:
    """Return the samples to draw, each class in proportion. `[n]`, bool

    The first samples of a class are drawn. A class that is too rare for its share still gives one
    sample if that leaves one for each part to come.
    """
    sizes = np.bincount(labels)
    quota = sizes * (count / len(labels))
    taken = np.floor(quota).astype(np.int64)
    rest = quota - taken
    needs_one = (taken == 0) & (sizes > parts_after)
    for number in np.lexsort((-rest, ~needs_one)):
        if taken.sum() == count:
            break
        taken[number] += taken[number] < sizes[number]
    by_class = np.argsort(labels, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - first[labels[by_class]]
    chosen: np.ndarray = rank < taken[labels]
    return chosen

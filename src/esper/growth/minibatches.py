"""In what order each host sees the training data: its own shuffles, from its own seed."""

from dataclasses import dataclass

import numpy as np

from esper.growth.randomness import Stream, generator


class SliceSizeError(ValueError):
    """A slice of training asks for more data than the task has."""


@dataclass
class MinibatchOrder:
    """The data cursor of every host.

    A host goes through the samples in an order shuffled for each pass, and leaves out at the end of
    a pass what does not fill a minibatch. Seed and position say all: the rest is kept for speed.

    Attributes:
        samples: samples in the training part.
        usable: of those, seen in one pass: a whole number of minibatches.
        seeds: the seed of each host. `[N]`
        position: samples each host has been given since its birth. `[N]`
        order: the present pass of each host and the next one, end to end. `[N, 2 * usable]`
    """

    samples: int
    usable: int
    seeds: np.ndarray
    position: np.ndarray
    order: np.ndarray


def new_order(hosts: int, samples: int, batch: int, batches: int) -> MinibatchOrder:
    """Return cursors for `hosts` hosts; `restart` gives each its seed.

    Args:
        hosts: N.
        samples: samples in the training part.
        batch: samples in a minibatch.
        batches: minibatches in a slice.

    Raises:
        SliceSizeError: one pass does not hold a slice.
    """
    usable = samples // batch * batch
    if batch * batches > usable:
        raise SliceSizeError(
            f"a slice of {batches} minibatches of {batch} needs {batch * batches} training "
            f"samples and the task has {samples}"
        )
    return MinibatchOrder(
        samples=samples,
        usable=usable,
        seeds=np.zeros(hosts, dtype=np.int64),
        position=np.zeros(hosts, dtype=np.int64),
        order=np.zeros((hosts, 2 * usable), dtype=np.int64),
    )


def restart(order: MinibatchOrder, hosts: np.ndarray, seeds: np.ndarray) -> None:
    """Put the given hosts at the beginning of their data, shuffled by their seeds."""
    order.seeds[hosts] = seeds
    order.position[hosts] = 0
    for host in hosts:
        order.order[host, : order.usable] = _shuffle(order, int(host), 0)
        order.order[host, order.usable :] = _shuffle(order, int(host), 1)


def draw(order: MinibatchOrder, count: int) -> np.ndarray:
    """Return the next `count` samples of every host and move the cursors on. `[N, count]`"""
    offset = order.position % order.usable
    drawn = np.take_along_axis(order.order, offset[:, None] + np.arange(count), axis=1)
    passes = (order.position + count) // order.usable
    for host in np.flatnonzero(passes > order.position // order.usable):
        order.order[host, : order.usable] = order.order[host, order.usable :]
        order.order[host, order.usable :] = _shuffle(order, int(host), int(passes[host]) + 1)
    order.position += count
    return drawn


def _shuffle(order: MinibatchOrder, host: int, number: int) -> np.ndarray:
    stream = generator(int(order.seeds[host]), Stream.DATA, number)
    return stream.permutation(order.samples)[: order.usable]

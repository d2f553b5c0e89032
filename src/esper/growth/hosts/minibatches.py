"""The order of the training data of each host: its own shuffles, from its own random seed."""

from dataclasses import dataclass

import numpy as np

from esper.growth.hosts.randomness import Stream, generator
from esper.leyline.errors import EsperError

#: A minibatch is at most this share of a small training part, but has at least so many samples.
_SHARE, _FEWEST = 4, 8


class SliceSizeError(EsperError, ValueError):
    """The training part of the task has no samples."""


def fitting_batch(samples: int, most: int) -> int:
    """Return the samples in a minibatch for a training part of a size.

    Args:
        samples: samples in the training part.
        most: samples in a minibatch where there is enough data.
    """
    return max(1, min(most, samples, max(_FEWEST, samples // _SHARE)))


@dataclass
class MinibatchOrder:
    """The position of every host in its training data.

    The samples are shuffled for each pass; a remainder that does not fill a minibatch is left out.
    Where even one minibatch is larger than the training part, minibatches span several passes.
    Random seed and position determine everything; the rest is cached for speed.

    Attributes:
        samples: samples in the training part.
        usable: samples in one pass: a whole number of minibatches, or all if there are fewer than
            in a minibatch.
        rng_seeds: random seed of each host. `[N]`
        position: samples drawn since the host was initialised. `[N]`
        order: the present pass of each host and the following ones that a slice can reach, end to
            end. `[N, passes * usable]`
    """

    samples: int
    usable: int
    rng_seeds: np.ndarray
    position: np.ndarray
    order: np.ndarray

    @property
    def passes(self) -> int:
        """Number of passes in `order`."""
        return self.order.shape[1] // self.usable


def new_order(hosts: int, samples: int, batch: int, batches: int) -> MinibatchOrder:
    """Return the positions of N hosts; `restart` sets the random seeds.

    Args:
        hosts: N.
        samples: samples in the training part.
        batch: samples in a minibatch.
        batches: minibatches in a slice.

    Raises:
        SliceSizeError: there is no data.
    """
    if samples < 1:
        raise SliceSizeError("the training part of the task has no samples")
    usable = samples // batch * batch or samples
    passes = 1 + -(-batch * batches // usable)
    return MinibatchOrder(
        samples=samples,
        usable=usable,
        rng_seeds=np.zeros(hosts, dtype=np.int64),
        position=np.zeros(hosts, dtype=np.int64),
        order=np.zeros((hosts, passes * usable), dtype=np.int64),
    )


def restart(order: MinibatchOrder, hosts: np.ndarray, rng_seeds: np.ndarray) -> None:
    """Put the given hosts at the beginning of their data, shuffled by their random seeds."""
    order.rng_seeds[hosts] = rng_seeds
    order.position[hosts] = 0
    for host in hosts:
        _passes(order, int(host))[:] = [
            _shuffle(order, int(host), number) for number in range(order.passes)
        ]


def draw(order: MinibatchOrder, count: int) -> np.ndarray:
    """Return the next `count` samples of every host and advance the positions. `[N, count]`"""
    offset = order.position % order.usable
    drawn = np.take_along_axis(order.order, offset[:, None] + np.arange(count), axis=1)
    present = (order.position + count) // order.usable
    over = present - order.position // order.usable
    for host in np.flatnonzero(over):
        kept, passes = order.passes - int(over[host]), _passes(order, int(host))
        passes[:kept] = passes[-kept:]
        for number in range(kept, order.passes):
            passes[number] = _shuffle(order, int(host), int(present[host]) + number)
    order.position += count
    return drawn


def _passes(order: MinibatchOrder, host: int) -> np.ndarray:
    """Return a view of a host's passes. `[passes, usable]`"""
    view: np.ndarray = order.order[host].reshape(-1, order.usable)
    return view


def _shuffle(order: MinibatchOrder, host: int, number: int) -> np.ndarray:
    stream = generator(int(order.rng_seeds[host]), Stream.DATA, number)
    return stream.permutation(order.samples)[: order.usable]

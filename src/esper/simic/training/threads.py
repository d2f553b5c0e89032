"""How many threads torch should use: measured, because more cores are not always faster.

Small hosts lose more to handing work over than they gain from a second core, and under a busy
neighbour two threads have been several times slower than one.
"""

import time
from collections.abc import Callable

import psutil
import torch

REPEATS = 3


def choose_threads(
    work: Callable[[], object], set_threads: Callable[[int], None] = torch.set_num_threads
) -> int:
    """Return how many threads do `work` fastest, of 1, 2, 4 … up to the cores this process has.

    `work` is run once to warm up and then `REPEATS` times for each number; the best time counts,
    since a neighbour can only make it longer. `set_threads` makes `work` use so many; the last that
    it is called with is the number returned.
    """
    cores = len(psutil.Process().cpu_affinity() or [0])
    candidates = [1]
    while candidates[-1] * 2 <= cores:
        candidates.append(candidates[-1] * 2)
    seconds = {threads: _best_seconds(work, set_threads, threads) for threads in candidates}
    fastest = min(candidates, key=lambda threads: seconds[threads])
    set_threads(fastest)
    return fastest


def _best_seconds(
    work: Callable[[], object], set_threads: Callable[[int], None], threads: int
) -> float:
    set_threads(threads)
    work()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best

"""Measures the fastest number of PyTorch threads, because more are not always faster.

For small hosts, synchronising threads costs more than a second core gains; next to a busy process,
two threads can be several times slower than one.
"""

import time
from collections.abc import Callable

import psutil
import torch

REPEATS = 3


def choose_threads(
    work: Callable[[], object], set_threads: Callable[[int], None] = torch.set_num_threads
) -> int:
    """Return the fastest number of threads of 1, 2, 4 … up to the cores of this process.

    Args:
        work: the function to measure. It runs once to warm up and then `REPEATS` times for each
            number; the shortest time counts, because other processes can only make it longer.
        set_threads: sets the number of threads; its last call has the returned number.
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

"""Shared by benchmarks: options, repetition in several processes, intervals, the console."""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import bootstrap

#: Width of a table that goes into a file or a pipe.
PIPED_WIDTH = 120


def rounds_of(text: str) -> int:
    """Return the number of rounds in an option; an interval needs at least two."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 2, for an interval, not {text}"
        )
    return int(text)


def make_console() -> Console:
    """Return a console as wide as its terminal or, without one, as the widest table."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def in_processes(number: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what some work returns in several new processes, one after the other.

    Where a process happens to place its tensors in memory changes the ratio of two variants by up
    to 2 %, in all its rounds alike.
    """
    results = []
    for _ in range(number):
        with ProcessPoolExecutor(1, get_context("spawn")) as one:
            results.append(one.submit(work, *arguments).result())
    return results


def interval_of(values: np.ndarray[Any, Any]) -> str:
    """Return the median of one value per process, with its 95 % interval if there are several."""
    median = f"{np.median(values):.4f}"
    if len(values) < 3:
        return median
    interval = bootstrap((values,), np.median, rng=0, method="percentile").confidence_interval
    return f"{median} [{interval.low:.4f}, {interval.high:.4f}]"


def line_of(variant: str, milliseconds: np.ndarray[Any, Any], ratios: np.ndarray[Any, Any]) -> str:
    """Return the line of a variant: median time, and its ratios with one value per process."""
    return (
        f"  {variant:32} {np.median(milliseconds):9.1f} ms   {interval_of(ratios)} of none, "
        f"processes {ratios.min():.3f} to {ratios.max():.3f}"
    )

"""Waiting for a screen, or another process, and running on one thread."""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


async def until(pilot: Any, condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds and the screen has handled its messages.

    The test fails if the condition does not hold in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:g} s: {inspect.getsource(condition).strip()}")
        await pilot.pause(0.005)
    await pilot.pause()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until another process has made a condition true; the test fails if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: small arrays gain nothing from two, and lose on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""Loops in coroutines and generators: what comes after the step does not matter to a second run."""

import asyncio

import pytest
import torch
from torch import nn

from esper.watching.watch import Watch


async def batches(count):
    for number in range(count):
        yield torch.randn(8, 4), number
        await asyncio.sleep(0)


async def waits_after(model, optimizer):
    async for x, number in batches(4):
        if number == 2:
            x = x - 100
        loss = x.log1p().abs().mean() + model(x).mean() if number == 2 else model(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        await asyncio.sleep(0)
        async with asyncio.Lock():
            _ = [item async for item in batches(1)]
            async for _ in batches(1):
                pass


async def waits_before(model, optimizer):
    for number in range(4):
        x = torch.randn(8, 4)
        await asyncio.sleep(0)
        loss = model(x).mean() * (float("nan") if number == 2 else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def yields_after(model, optimizer):
    for number in range(4):
        x = torch.randn(8, 4)
        shift = -100.0 if number == 2 else 2.0
        loss = (model(x).square() + shift).log1p().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        got = yield loss.item()
        yield from () if got is None else got


def yields_before(model, optimizer):
    for number in range(4):
        x = torch.randn(8, 4)
        yield x
        loss = model(x).mean() * (float("nan") if number == 2 else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def explanation(loop):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Watch([model], [optimizer]) as watch:
        if asyncio.iscoroutinefunction(loop):
            asyncio.run(loop(model, optimizer))
        else:
            list(loop(model, optimizer))
    assert (watch.failures, watch.last_failure) == (0, "")
    (trouble,) = watch.troubles
    assert trouble.minibatch == 3
    return trouble.explanation


@pytest.mark.parametrize("loop", [waits_after, yields_after])
def test_what_comes_after_the_step_does_not_matter(loop):
    found = explanation(loop)

    assert found.origin is not None, found.why_no_origin
    assert found.origin.operation.base == "log1p"


@pytest.mark.parametrize(
    ("loop", "words"),
    [(waits_before, "waits for another task"), (yields_before, "yields to the caller of the loop")],
)
def test_a_loop_that_waits_or_yields_before_the_step_is_not_run_again(loop, words):
    assert explanation(loop).why_no_origin.endswith(words)

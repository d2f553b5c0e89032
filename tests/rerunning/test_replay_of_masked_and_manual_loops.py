"""Replay of runs with masks, with a loss that is NaN alone, and without an optimizer."""

import math

import pytest
import torch
from recorded_runs import replayed
from torch import nn

import esper
from esper.simic.replay.verdict import REPRODUCED

INF = math.inf


def masked_reward(model, optimizer, step):
    mask = torch.zeros(3)
    mask[1] = -INF
    rewards = torch.randn(8)
    if step == 1:
        rewards = (rewards - rewards) / (rewards - rewards)
    loss = (rewards * (model(torch.randn(8, 4)) + mask).log_softmax(-1)[:, 0]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def loss_alone(model, optimizer, step):
    entropy = torch.zeros(()).log() * 0 if step == 1 else torch.zeros(())
    loss = model(torch.randn(8, 4)).pow(2).mean() + entropy
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def by_hand(model, _optimizer, step):
    obs = torch.randn(8, 4)
    obs = obs / 0 * 0 if step == 1 else obs
    model.zero_grad()
    model(obs).pow(2).mean().backward()
    for parameter in model.parameters():
        parameter.data -= 0.1 * parameter.grad


@pytest.mark.parametrize(
    ("one_step", "operation", "quantity"),
    [
        (masked_reward, "aten.div.Tensor", "rewards"),
        (loss_alone, "aten.log.default", "entropy"),
        (by_hand, "aten.div.Tensor", "obs"),
    ],
)
def test_replay_names_what_the_watch_named(one_step, operation, quantity, tmp_path, caplog):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = None if one_step is by_hand else torch.optim.SGD(model.parameters(), lr=0.1)
    with esper.watch(model, optimizer, run_dir=tmp_path):
        for step in range(3):
            one_step(model, optimizer, step)

    assert f"in {quantity}, update 1, minibatch 2; it began in" in caplog.text
    replay = replayed(tmp_path)
    assert replay.verdict == REPRODUCED
    assert replay.origin.operation.name == operation


def test_a_loop_without_any_step_says_what_to_do(tmp_path, caplog):
    model = nn.Linear(4, 3)
    with esper.watch(model, run_dir=tmp_path):
        loss = model(torch.randn(8, 4)).sum() * math.nan
        (gradient,) = torch.autograd.grad(loss, [model.weight])
        model.weight.data -= 0.1 * gradient

    assert "NaN in parameters (weight), update 1; no operation is known" in caplog.text
    assert "give it to esper.watch" in caplog.text

"""A lasting fault is one incident, is traced once, and turns on the light `stalled`."""

import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Normal

from esper.watching.agreement import NonfiniteHalt
from esper.watching.finding.child import forked
from esper.watching.watch import Watch

UPDATES, STEPS, MINIBATCHES = 5, 4, 2


CALLS = []  # an attribute of the agent would be restored after a repetition


class Agent(nn.Module):
    """Counts its calls, and can have a standard deviation that overflows."""

    def __init__(self):
        super().__init__()
        self.actor_mean = nn.Linear(4, 2)
        self.actor_logstd = nn.Parameter(torch.zeros(1, 2))

    def forward(self, x):
        CALLS.append(torch.is_grad_enabled())
        return Normal(self.actor_mean(x), self.actor_logstd.exp(), validate_args=False)


def train(agent, optimizer, watch, plant):
    for update in range(UPDATES):
        plant(update)
        obs = torch.randn(STEPS, 4)
        with torch.no_grad():
            actions = torch.stack([agent(one[None]).sample()[0] for one in obs])
        for _ in range(MINIBATCHES):
            loss = -agent(obs).log_prob(actions).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        watch.update()


def watched(agent, plant, on_nonfinite="skip"):
    optimizer = torch.optim.Adam(agent.parameters())
    box = spaces.Box(-1, 1, (2,))
    with Watch([agent], [optimizer], box, on_nonfinite=on_nonfinite) as watch:
        train(agent, optimizer, watch, plant)
    assert watch.failures == 0, watch.last_failure
    return watch


@pytest.fixture
def agent():
    torch.manual_seed(0)
    CALLS.clear()
    return Agent()


def test_a_finite_weight_that_stays_bad_is_one_incident_and_its_minibatches_run_once(
    agent, monkeypatch
):
    monkeypatch.setattr(forked, "can_fork", lambda _: False)  # so that its calls are counted here

    def plant(update):
        if update == 1:
            agent.actor_logstd.data[0, 1] = 100.0

    watch = watched(agent, plant)

    assert [(one.update, one.phase) for one in watch.troubles] == [(2, "acting")]
    assert watch.is_stalled
    # Only the first bad minibatch was repeated.
    assert CALLS.count(True) == UPDATES * MINIBATCHES + 1


def test_a_nan_weight_stalls_training(agent):
    def plant(update):
        if update == 1:
            agent.actor_mean.weight.data[0, 0] = torch.nan

    watch = watched(agent, plant)

    assert len(watch.troubles) == 1
    assert watch.is_stalled


def test_a_fault_that_recurs_after_a_healthy_update_is_reported_again(agent):
    def plant(update):
        agent.actor_logstd.data[0, 1] = 100.0 if update in (1, 3) else 0.0

    watch = watched(agent, plant)

    assert [one.update for one in watch.troubles] == [2, 4]
    assert not watch.is_stalled


def test_a_fault_in_another_head_is_reported_during_a_lasting_fault(agent):
    def plant(update):
        if update in (1, 2):
            agent.actor_logstd.data[0, update - 1] = 100.0

    watch = watched(agent, plant)

    owners = [{one.owner for one in trouble.explanation.found} for trouble in watch.troubles]
    assert owners == [{"action[0]"}, {"action[0]", "action[1]"}]


def test_halt_ends_while_acting(agent):
    def plant(update):
        if update == 1:
            agent.actor_mean.weight.data[0, 0] = torch.nan

    with pytest.raises(NonfiniteHalt):
        watched(agent, plant, "halt")

    assert CALLS.count(True) == MINIBATCHES  # of the first update


def test_flags_alone_show_a_standard_deviation_that_overflows_while_acting(agent):
    optimizer = torch.optim.SGD(agent.parameters(), lr=0.0)
    with Watch([agent], [optimizer], spaces.Box(-1, 1, (2,)), when="update") as watch:
        for update in range(4):
            if update == 1:
                agent.actor_logstd.data[0, 1] = 100.0
            with torch.no_grad():
                agent(torch.randn(2, 4))
            agent.actor_mean(torch.randn(2, 4)).sum().backward()
            optimizer.step()
            watch.update()

    assert watch.failures == 0, watch.last_failure
    assert [(one.update, one.phase) for one in watch.troubles] == [(3, "acting")]
    assert {one.owner for one in watch.troubles[0].explanation.found} == {"action[1]"}
    assert watch.troubles[0].explanation.origin.operation.base == "exp"

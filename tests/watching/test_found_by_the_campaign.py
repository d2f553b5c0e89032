"""What the campaign of watched loops found: each a loop as users write it."""

import copy

import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn.utils import clip_grad

from esper.watching.finding.explainer import Explainer
from esper.watching.model.heads import find_output_layer
from esper.watching.watch import Watch

HEADS = {"steer": 3, "brake": 2}


class Policy(nn.Module):
    """A trunk, two heads side by side and a critic."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 8)
        self.actor = nn.Linear(8, 5)
        self.critic = nn.Linear(8, 1)

    def forward(self, observations):
        features = self.trunk(observations).tanh()
        return self.actor(features), self.critic(features).squeeze(-1)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy()


@pytest.fixture
def optimizer(policy):
    return torch.optim.Adam(policy.parameters(), lr=1e-3)


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def train(policy, optimizer, weights, *, max_norm=0.5):
    for weight in weights:
        logits, values = policy(torch.randn(16, 4))
        loss = (logits.log_softmax(-1)[:, 0] * weight).mean() + values.square().mean()
        optimizer.zero_grad()
        loss.backward()
        clip_grad.clip_grad_norm_(policy.parameters(), max_norm)
        optimizer.step()


def test_tensors_of_the_loops_callers_are_no_causes(policy, optimizer):
    result_of_another_run = torch.tensor([torch.nan])
    with Watch([policy], [optimizer], HEADS) as watch:
        train(policy, optimizer, [torch.ones(16), torch.full((16,), torch.inf)])

    assert result_of_another_run.isnan().all()
    ((owner, quantity, kind),) = found(watch)
    assert (owner, kind) == ("shared", "+inf")
    assert "weight" in quantity


def test_a_variable_that_harmed_nothing_is_no_cause(policy, optimizer):
    weights = [1.0, 1.0, torch.inf]
    best = torch.tensor(torch.inf)
    forbidden = torch.full((16, 5), -torch.inf)
    with Watch([policy], [optimizer], HEADS) as watch:
        for weight in weights:
            advantages = torch.ones(16) * weight
            logits, values = policy(torch.randn(16, 4))
            choices = torch.where(logits < 100, logits, forbidden)
            loss = (choices.log_softmax(-1)[:, 0] * advantages).mean() + values.square().mean()
            best = torch.minimum(best, loss.detach())
            optimizer.zero_grad()
            loss.backward()
            clip_grad.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()

    assert found(watch)[0] == ("shared", "advantages", "+inf")
    assert watch.failures == 0, watch.last_failure


def test_a_norm_that_overflows_is_no_incident_while_gradients_are_finite(policy, optimizer):
    with Watch([policy], [optimizer], HEADS) as watch:
        train(policy, optimizer, [torch.full((16,), 1e25)] * 3)

    assert watch.troubles == []


def test_a_nan_that_a_loss_scaler_leaves_out_is_found(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = scaler.unscale_, scaler.step
    with Watch([policy], [optimizer], HEADS) as watch:
        for number in range(4):
            targets = torch.full((16,), torch.nan if number == 2 else 1.0)
            _, values = policy(torch.randn(16, 4))
            optimizer.zero_grad()
            scaler.scale((values - targets).square().mean()).backward()
            scaler.unscale_(optimizer)
            clip_grad.clip_grad_norm_(policy.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()

    assert found(watch) == [("shared", "targets", "nan")]
    assert watch.failures == 0, watch.last_failure
    assert (scaler.unscale_, scaler.step) == before
    assert scaler.get_scale() == 2.0


def test_counters_are_not_counted_twice(policy, optimizer):
    """As in TD3, which trains its actor at every second count."""
    count = 0
    with Watch([policy], [optimizer], HEADS) as watch:
        for number in range(6):
            count += 1
            logits, _ = policy(torch.randn(16, 4))
            distance = (logits - logits.detach()).square().sum(-1)
            if count % 2 == 0:
                length = distance.sqrt() if number == 3 else distance
                optimizer.zero_grad()
                (length.mean() + logits.mean()).backward()
                clip_grad.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()

    assert count == 6
    origin = watch.troubles[0].explanation.origin
    assert origin is not None, watch.troubles[0].explanation.why_no_origin
    assert origin.operation.base == "div"
    assert "distance.sqrt()" in origin.operation.place.code


def test_a_bad_step_is_left_out_even_if_it_cannot_be_explained(policy, optimizer, monkeypatch):
    with Watch([policy], [optimizer], HEADS, on_nonfinite="skip") as watch:
        monkeypatch.setattr(Explainer, "explain", lambda *_, **__: 1 / 0)
        train(policy, optimizer, [torch.ones(16), torch.full((16,), torch.nan)])

    assert watch.failures == 1
    assert all(bool(parameter.isfinite().all()) for parameter in policy.parameters())


def test_a_moment_that_stops_a_weight_is_found_at_the_end_of_the_update(policy, optimizer):
    with Watch([policy], [optimizer], HEADS, finds_updates=False) as watch:
        train(policy, optimizer, [torch.ones(16)])
        optimizer.state[policy.actor.weight]["exp_avg_sq"][4, 0] = torch.inf
        train(policy, optimizer, [torch.ones(16)])
        watch.update()

    assert found(watch) == [("brake", "moments", "+inf")]


def test_a_target_network_is_no_second_cause(policy):
    policy.actor_target = copy.deepcopy(policy.actor)
    own = [p for name, p in policy.named_parameters() if "target" not in name]
    optimizer = torch.optim.Adam(own, lr=1e-3)
    layer = policy.actor
    with Watch([policy], [optimizer], HEADS, output_layer=layer) as watch:
        train(policy, optimizer, [torch.ones(16)])
        with torch.no_grad():
            policy.actor.bias[4] = torch.nan
            policy.actor_target.bias[4] = torch.nan
        train(policy, optimizer, [torch.ones(16)])

    assert found(watch) == [("brake", "parameters", "nan")]


@pytest.mark.parametrize("name", ["actor", "actor_mean", "pi", "mu", "fc_mean", "action_net"])
def test_a_critic_of_the_same_width_is_not_the_output_layer(name):
    model = nn.ModuleDict({name: nn.Linear(4, 1), "critic": nn.Linear(4, 1)})

    assert find_output_layer(model, 1) is model[name]


def test_a_standard_deviation_that_overflows_lights_its_dimension():
    torch.manual_seed(0)
    policy = nn.Module()
    policy.actor_mean = nn.Linear(4, 3)
    policy.actor_logstd = nn.Parameter(torch.zeros(1, 3))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    space = spaces.Box(-1, 1, (3,))

    def observations():
        for number in range(3):
            if number == 2:
                policy.actor_logstd.data[0, 1] = 100.0
            yield torch.randn(16, 4)

    with Watch([policy], [optimizer], space) as watch:
        for batch in observations():
            mean = policy.actor_mean(batch)
            std = policy.actor_logstd.expand_as(mean).exp()
            log_prob = -((mean - 1) / std).square() - std.log()
            optimizer.zero_grad()
            log_prob.sum(-1).mean().backward()
            clip_grad.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()

    assert {owner for owner, _, _ in found(watch)} == {"action[1]"}
    assert watch.troubles[0].explanation.origin.operation.base == "exp"


def test_an_infinite_input_that_only_breaks_the_gradient_has_its_first_use():
    torch.manual_seed(0)
    model = nn.LSTM(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [torch.randn(5, 2, 4) for _ in range(3)]
    batches[1][2, 1, 3] = torch.inf
    with Watch([model], [optimizer]) as watch:
        for batch in batches:
            optimizer.zero_grad()
            model(batch)[0].square().mean().backward()
            optimizer.step()
    (trouble,) = watch.troubles
    operation = trouble.explanation.origin.operation
    assert operation.phase == "forward"
    assert operation.outputs[0].first is None  # finite
    assert trouble.explanation.origin.chain[-1].phase == "backward"

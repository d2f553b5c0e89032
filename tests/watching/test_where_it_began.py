"""The owner and the name of a fault: heads, groups and variables at the first operation."""

import contextlib

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn.utils import clip_grad

from esper.watching.watch import Watch


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def origin(watch, number=0):
    explanation = watch.troubles[number].explanation
    assert explanation.origin is not None, explanation.why_no_origin
    return explanation.origin


class Gaussian(nn.Module):
    """The agent of CleanRL's script for continuous actions."""

    def __init__(self):
        super().__init__()
        self.critic = nn.Linear(4, 1)
        self.actor_mean = nn.Linear(4, 3)
        self.actor_logstd = nn.Parameter(torch.zeros(1, 3))

    def get_action_and_value(self, x, action=None):
        action_mean = self.actor_mean(x)
        action_logstd = self.actor_logstd.expand_as(action_mean)
        action_std = torch.exp(action_logstd)
        probs = Normal(action_mean, action_std)
        if action is None:
            action = probs.sample()
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), self.critic(x)


def train_gaussian(agent, optimizer, before_acting=lambda _: None, before_learning=lambda _: None):
    for update in range(3):
        before_acting(update)
        obs, actions, logprobs = torch.zeros(8, 2, 4), torch.zeros(8, 2, 3), torch.zeros(8, 2)
        for step in range(8):
            obs[step] = torch.randn(2, 4)
            with torch.no_grad():
                action, logprob, _, _ = agent.get_action_and_value(obs[step])
            actions[step] = action
            logprobs[step] = logprob
        b_obs, b_act, b_logprobs = obs.flatten(0, 1), actions.flatten(0, 1), logprobs.flatten()
        before_learning(update)
        for mb_inds in np.arange(16).reshape(2, 8):
            _, newlogprob, entropy, _ = agent.get_action_and_value(b_obs[mb_inds], b_act[mb_inds])
            ratio = (newlogprob - b_logprobs[mb_inds]).exp()
            loss = ratio.mean() - entropy.mean()
            optimizer.zero_grad()
            loss.backward()
            clip_grad.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


@pytest.fixture
def gaussian():
    torch.manual_seed(0)
    return Gaussian()


def watched_gaussian(agent, **hooks):
    optimizer = torch.optim.Adam(agent.parameters())
    with (
        contextlib.suppress(ValueError),
        Watch([agent], [optimizer], spaces.Box(-1, 1, (3,))) as watch,
    ):
        train_gaussian(agent, optimizer, **hooks)
    assert watch.failures == 0, watch.last_failure
    return watch


@pytest.mark.parametrize("phase", ["acting", "learning"])
def test_a_standard_deviation_that_overflows_is_named_before_what_is_drawn_with_it(gaussian, phase):
    def plant(update):
        if update == 1:
            gaussian.actor_logstd.data[0, 1] = 100.0

    watch = watched_gaussian(gaussian, **{f"before_{phase}": plant})

    first = watch.troubles[0]
    assert first.phase == ("acting" if phase == "acting" else "update")
    assert set(found(watch)) == {("action[1]", "action_std", "+inf")}
    assert origin(watch).operation.base == "exp"
    assert origin(watch).operation.place.code == "action_std = torch.exp(action_logstd)"


def test_a_standard_deviation_that_the_model_clamps_is_not_a_fault(gaussian):
    gaussian.actor_logstd = nn.Parameter(torch.full((1, 3), 100.0))
    gaussian.actor_logstd.register_hook(torch.zeros_like)

    def limited(x, action=None):
        probs = Normal(gaussian.actor_mean(x), gaussian.actor_logstd.clamp(max=2).exp())
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action).sum(1), probs.entropy().sum(1), gaussian.critic(x)

    gaussian.get_action_and_value = limited

    watch = watched_gaussian(gaussian)

    assert watch.troubles == []


def test_an_unused_variable_gives_no_name(gaussian):
    optimizer = torch.optim.Adam(gaussian.parameters())
    with Watch([gaussian], [optimizer]) as watch:
        for _ in range(1):
            (_, unused) = torch.full((4,), torch.nan), torch.zeros(1)
            target = _ + unused
            optimizer.zero_grad()
            (gaussian.critic(torch.ones(4, 4)).flatten() - target).square().mean().backward()
            optimizer.step()

    assert found(watch) == [("shared", "target", "nan")]


class Overflowing(nn.Module):
    """A layer without parameters that overflows once it is broken."""

    def __init__(self):
        super().__init__()
        self.is_broken = False

    def forward(self, values):
        return torch.exp(values * 1e30) if self.is_broken else values


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), Overflowing())
        self.scale = Overflowing()
        self.decoder = nn.Linear(8, 3)

    def forward(self, x):
        return self.decoder(self.scale(self.encoder(x).abs()))


@pytest.mark.parametrize(
    ("groups", "path", "owner"),
    [
        ({"enc": "encoder"}, "encoder.2", "enc"),  # a module of the group's path
        ({"enc": r"encoder\.0\.", "dec": "decoder"}, "encoder.2", "enc"),  # around it: its weights
        ({"dec": "decoder"}, "encoder.2", "shared"),
        ({"enc": "encoder", "dec": "decoder"}, "scale", "shared"),
    ],
)
def test_a_group_lights_for_what_its_modules_compute(groups, path, owner):
    torch.manual_seed(0)
    model = Grouped()
    optimizer = torch.optim.Adam(model.parameters())
    with Watch([model], [optimizer], groups=groups) as watch:
        for number in range(2):
            model.get_submodule(path).is_broken = number == 1
            loss = model(torch.ones(5, 4)).log_softmax(-1)[:, 0].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    assert {one[0] for one in found(watch)} == {owner}
    assert {one.part for one in watch.troubles[0].explanation.found} == {path}
    operation = origin(watch).operation
    assert operation.base == "exp"
    assert operation.module == f"Grouped.{path}"


def test_a_module_may_be_a_group():
    torch.manual_seed(0)
    model = Grouped()
    optimizer = torch.optim.Adam(model.parameters())
    with Watch([model], [optimizer], groups={"enc": model.encoder}) as watch:
        for number in range(2):
            model.encoder[2].is_broken = number == 1
            optimizer.zero_grad()
            model(torch.ones(5, 4)).square().mean().backward()
            optimizer.step()

    assert {one[0] for one in found(watch)} == {"enc"}


class Recurrent(nn.Module):
    """An agent whose parts the loop calls itself."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 8)
        self.lstm = nn.LSTM(8, 8)
        self.actor = nn.Linear(8, 2)


@pytest.mark.parametrize("replay", ["auto", "off"])
def test_a_recurrent_state_comes_after_the_observation_that_broke_it(replay):
    torch.manual_seed(0)
    agent = Recurrent()
    lstm_state = (torch.zeros(1, 1, 8), torch.zeros(1, 1, 8))
    with (
        contextlib.suppress(ValueError),
        Watch([agent], [], {"action": 2}, replay=replay) as watch,
        torch.no_grad(),
    ):
        next_obs = torch.zeros(1, 4)
        for step in range(4):
            features = agent.trunk(next_obs)
            hidden, lstm_state = agent.lstm(features.unsqueeze(0), lstm_state)
            action = Categorical(logits=agent.actor(hidden)).sample()
            next_obs = torch.full((1, 4), torch.nan if step == 1 else float(action))

    assert found(watch)[0] == ("shared", "next_obs", "nan")


def test_one_tensor_has_one_name(gaussian):
    """`obs` of the loop is `x` in the model, and a row of it is a view."""
    with (
        contextlib.suppress(ValueError),
        Watch([gaussian], [], spaces.Box(-1, 1, (3,))) as watch,
        torch.no_grad(),
    ):
        for _ in range(1):
            obs = torch.zeros(3, 2, 4)
            obs[1, 0, 2] = torch.nan
            gaussian.get_action_and_value(obs[1])

    assert found(watch) == [("shared", "obs", "nan")]
    assert origin(watch).cause == "poisoned input: variable obs[1, 0, 2] is nan"


def test_a_standard_deviation_whose_square_overflows_lights_its_dimension_while_acting(gaussian):
    def plant(update):
        if update == 1:
            gaussian.actor_logstd.data[0, 1] = 50.0

    watch = watched_gaussian(gaussian, before_acting=plant)

    assert watch.troubles[0].phase == "acting"
    assert found(watch) == [("action[1]", "variance", "+inf")]
    assert watch.troubles[0].explanation.found[0].part == "actor_logstd"
    assert origin(watch).operation.base == "pow"


def test_a_custom_loop_reports_the_step_counters_of_a_bad_observation(gaussian):
    def act(observations):
        for step, seen in enumerate(observations):
            global_step = 2 * step
            with torch.no_grad():
                gaussian.get_action_and_value(seen)
            assert global_step < 2 * len(observations)

    observations = torch.randn(8, 2, 4)
    observations[5, 1, 2] = torch.nan
    with contextlib.suppress(ValueError), Watch([gaussian], [], spaces.Box(-1, 1, (3,))) as watch:
        act(observations)

    assert found(watch) == [("shared", "observations", "nan")]
    assert watch.troubles[0].explanation.counters == "global_step = 10, step = 5"


@pytest.mark.parametrize("name", ["from_numpy", "as_tensor", "tensor", "list"])
@pytest.mark.parametrize("is_whole", [False, True])
def test_data_of_an_array_is_named(name, is_whole):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    rows[9 if not is_whole else slice(8, 16)] = np.nan
    with Watch([model], [optimizer]) as watch:
        for start in (0, 8, 16):
            batch = rows[start : start + 8]
            if name == "from_numpy":
                loss = model(torch.from_numpy(batch)).square().mean()
            elif name == "as_tensor":
                loss = model(torch.as_tensor(batch)).square().mean()
            elif name == "tensor":
                loss = model(torch.tensor(batch)).square().mean()
            else:
                loss = model(torch.tensor(batch.tolist())).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    kind = "list" if name == "list" else "NumPy array"
    made = "tensor" if name == "list" else name
    cause = origin(watch).cause
    element = "element [0, 0]" if is_whole else "element [1, 0]"
    assert cause.startswith(
        f"poisoned input: {element} of the {kind} given to torch.{made}(...) at "
    )
    assert "test_where_it_began.py:" in cause
    assert watch.failures == 0


def test_a_number_in_the_code_is_a_constant(gaussian):
    optimizer = torch.optim.SGD(gaussian.parameters(), lr=0.1)
    with Watch([gaussian], [optimizer]) as watch:
        for _ in range(2):
            loss = gaussian.critic(torch.ones(2, 4)).mean() * float("nan")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    assert origin(watch).cause == "a constant of the program: other is nan"


@pytest.mark.parametrize("handled", ["by the watch", "by the loop's own function"])
def test_an_exception_in_the_frame_that_handles_it_has_its_place(handled):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch([model], [optimizer])
    try:
        with watch if handled == "by the watch" else contextlib.nullcontext():
            for number in range(3):
                x = torch.randn(8, 4)
                scale = x.abs().mean() * (number != 2)
                z = x / scale - x / scale.clamp(min=0.1)
                loss = -Normal(model(z), torch.ones(2)).log_prob(torch.zeros(8, 2)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    except ValueError as error:
        watch.explain(error)
    watch.close()

    operation = origin(watch).operation
    assert (operation.base, watch.failures) == ("div", 0)
    assert operation.place.code.startswith("z = x / scale")

"""What a watch finds in plain loops, and that training does not notice it."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad

from esper.watching.agreement import NonfiniteHalt
from esper.watching.hooking.hooks import OutputHook
from esper.watching.watch import Watch


class Agent(nn.Module):
    """A trunk with dropout, two heads side by side, and a critic."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        self.actor = nn.Linear(8, 5)
        self.critic = nn.Linear(8, 1)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(observations)
        return self.actor(features), self.critic(features).squeeze(-1)


HEADS = {"steer": 3, "brake": 2}


def train(
    agent, optimizer, *, updates=2, minibatches=4, observation=None, advantage=None, at=(1, 2),
    before_step=lambda update, minibatch: None,
):  # fmt: skip
    """Train as a PPO script does; some values are planted in minibatch `at`."""
    generator = torch.Generator().manual_seed(1)

    def batches(update):
        for minibatch in range(minibatches):
            observations = torch.randn(16, 4, generator=generator)
            advantages = torch.randn(16, generator=generator)
            if (update, minibatch) == at and observation is not None:
                observations[3, 1] = observation
            if (update, minibatch) == at and advantage is not None:
                advantages[5] = advantage
            before_step(update, minibatch)
            yield observations, advantages

    for update in range(updates):
        with torch.no_grad():
            agent(torch.randn(16, 4, generator=generator))
        for observations, advantages in batches(update):
            noise = torch.rand(16, generator=generator)
            advantages = advantages + 0.01 * noise
            logits, values = agent(observations)
            parts = logits.split((3, 2), dim=-1)
            log_probs = sum(part.log_softmax(-1)[:, 0] for part in parts)
            policy_loss = -(log_probs * advantages).mean()
            value_loss = (values - advantages).square().mean()
            loss = policy_loss + 0.5 * value_loss
            optimizer.zero_grad()
            loss.backward()
            clip_grad.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


@pytest.fixture
def agent():
    torch.manual_seed(0)
    return Agent()


@pytest.fixture
def optimizer(agent):
    return torch.optim.Adam(agent.parameters(), lr=1e-3)


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def test_a_clean_training_is_clean(agent, optimizer):
    with Watch([agent], [optimizer], HEADS) as watch:
        train(agent, optimizer)

    assert (watch.troubles, watch.failures, watch.last_failure) == ([], 0, "")


@pytest.mark.parametrize(
    ("planted", "name"),
    [({"observation": torch.nan}, "observations"), ({"advantage": torch.inf}, "advantages")],
)
def test_an_input_is_reported_with_its_name_in_the_loop(agent, optimizer, planted, name):
    with Watch([agent], [optimizer], HEADS) as watch:
        train(agent, optimizer, **planted)

    kind = "nan" if "observation" in planted else "+inf"
    assert found(watch) == [("shared", name, kind)]
    (trouble,) = watch.troubles
    assert (trouble.update, trouble.phase) == (2, "update")
    origin = trouble.explanation.origin
    assert origin is not None
    assert f"variable {name}" in origin.cause


@pytest.mark.parametrize(("rows", "head"), [(slice(0, 3), "steer"), (slice(3, 5), "brake")])
def test_a_weight_lights_its_head(agent, optimizer, rows, head):
    def break_weight(update, minibatch):
        if (update, minibatch) == (1, 1):
            agent.actor.weight.data[rows][0, 0] = torch.nan

    with Watch([agent], [optimizer], HEADS) as watch:
        train(agent, optimizer, before_step=break_weight)

    assert found(watch) == [(head, "parameters", "nan")]


class Poison(torch.autograd.Function):
    """The identity, with a NaN in one column of its derivative."""

    @staticmethod
    def forward(ctx, values, column):
        ctx.column = column
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        gradient[:, ctx.column] = torch.nan
        return gradient, None


def test_logits_that_break_light_their_head(agent, optimizer):
    hook = agent.actor.register_forward_hook(
        lambda _m, _i, output: output.index_fill(1, torch.tensor([4]), torch.inf)
    )
    with Watch([agent], [optimizer], HEADS) as watch:
        train(agent, optimizer, updates=1)
    hook.remove()

    assert found(watch)[0] == ("brake", "logits", "+inf")


def rounds(agent, optimizer):
    """Return the bytes of all weights and of the optimizer's state."""
    file = io.BytesIO()
    torch.save({"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}, file)
    return file.getvalue()


@pytest.mark.parametrize("planted", [{}, {"advantage": torch.nan}, {"observation": torch.inf}])
def test_a_watched_training_equals_an_unwatched_one(planted):
    results = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        agent = Agent()
        optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3)
        if is_watched:
            with Watch([agent], [optimizer], HEADS) as watch:
                train(agent, optimizer, **planted)
            assert bool(watch.troubles) == bool(planted)
            assert watch.failures == 0, watch.last_failure
        else:
            train(agent, optimizer, **planted)
        results.append((agent.state_dict(), optimizer.state_dict(), torch.get_rng_state()))

    (weights, state, random), (watched_weights, watched_state, watched_random) = results
    assert torch.equal(random, watched_random)
    for name, value in weights.items():
        torch.testing.assert_close(
            watched_weights[name], value, rtol=0, atol=0, equal_nan=True, msg=name
        )
    for number, values in state["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(
                watched_state["state"][number][name], value, rtol=0, atol=0, equal_nan=True
            )


def test_skip_skips_the_step(agent, optimizer):
    with Watch([agent], [optimizer], HEADS, on_nonfinite="skip") as watch:
        train(agent, optimizer, advantage=torch.nan)

    assert found(watch) == [("shared", "advantages", "nan")]
    assert all(parameter.isfinite().all() for parameter in agent.parameters())
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {7}  # of 8


def test_halt_ends_with_exit_code_3(agent, optimizer):
    with (
        pytest.raises(NonfiniteHalt) as raised,
        Watch([agent], [optimizer], HEADS, on_nonfinite="halt"),
    ):
        train(agent, optimizer, advantage=torch.nan)

    assert raised.value.code == 3


def test_consequences_of_an_earlier_step_are_not_reported(agent, optimizer):
    with Watch([agent], [optimizer], HEADS) as watch:
        train(agent, optimizer, updates=3, advantage=torch.nan)

    assert len(watch.troubles) == 1


def test_huge_finite_logits_are_harmless(agent, optimizer):
    hook = agent.actor.register_forward_hook(lambda _m, _i, output: output * 0 + 3e38)
    with Watch([agent], [optimizer], HEADS) as watch:
        train(agent, optimizer, updates=1)
    hook.remove()

    assert watch.troubles == []


def test_a_hooked_model_can_be_copied_and_saved(agent, optimizer):
    with Watch([agent], [optimizer], HEADS) as watch:
        copied = copy.deepcopy(agent)
        file = io.BytesIO()
        torch.save(agent, file)
        copied(torch.full((2, 4), torch.nan))

    assert watch.troubles == []
    assert any(isinstance(h, OutputHook) for h in copied.actor._forward_hooks.values())


def test_nothing_stays_behind(agent, optimizer):
    before = clip_grad._clip_grads_with_norm_

    with Watch([agent], [optimizer], HEADS):
        assert clip_grad._clip_grads_with_norm_ != before

    assert clip_grad._clip_grads_with_norm_ == before
    assert not agent.actor._forward_hooks
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("first", [0, 1])
def test_nothing_stays_behind_of_two_watches_whichever_is_closed_first(agent, optimizer, first):
    before = clip_grad._clip_grads_with_norm_, GradScaler._maybe_opt_step
    watches = [Watch([agent], [optimizer], HEADS) for _ in range(2)]

    watches[first].close()
    train(agent, optimizer, advantage=torch.nan)
    watches[1 - first].close()

    assert [len(watch.troubles) for watch in watches] == [int(first == 1), int(first == 0)]
    assert (clip_grad._clip_grads_with_norm_, GradScaler._maybe_opt_step) == before


def test_the_optimizer_is_found_when_none_is_given(agent, optimizer):
    with Watch([agent], heads=HEADS) as watch:
        train(agent, optimizer, advantage=torch.nan)

    assert found(watch) == [("shared", "advantages", "nan")]


def test_weights_that_do_not_move_are_detected(agent):
    still = torch.optim.SGD(agent.parameters(), lr=0.0)
    agent.trunk[1] = nn.Identity()
    with Watch([agent], [still], HEADS) as watch:
        train(agent, still, updates=5)
        is_stalled = watch.is_stalled

    assert is_stalled


def test_gradients_replaced_by_zeros_count_as_stalled(agent, optimizer):
    """Adam's momentum still moves the weights then."""
    with Watch([agent], [optimizer], HEADS) as watch:
        train(agent, optimizer, updates=2)
        for parameter in agent.parameters():
            parameter.register_hook(torch.zeros_like)
        before = [parameter.clone() for parameter in agent.parameters()]
        assert not watch.is_stalled
        train(agent, optimizer, updates=5)
        is_stalled = watch.is_stalled

    assert is_stalled
    assert any(not one.equal(now) for one, now in zip(before, agent.parameters(), strict=True))


def test_an_exception_is_explained(agent, optimizer):
    def broken(update, minibatch):
        if (update, minibatch) == (1, 1):
            targets = torch.tensor([torch.nan])
            raise ValueError(f"cannot learn from {targets}")

    with (
        pytest.raises(ValueError, match="cannot learn"),
        Watch([agent], [optimizer], HEADS) as watch,
    ):
        train(agent, optimizer, before_step=broken)

    assert ("shared", "targets", "nan") in found(watch)


def test_a_logged_nan_is_kept_until_the_end_of_its_update(agent, optimizer):
    with Watch([agent], [optimizer], HEADS) as watch:
        for values in ((1.0, torch.nan, 2.0), (3.0, 4.0)):
            for value in values:
                watch.log(reward=value)
            figures = dict(watch._minibatches.record.figures)
            watch.update()
            if len(values) == 3:
                assert figures["reward"] != figures["reward"]
    assert figures == {"reward": 4.0}

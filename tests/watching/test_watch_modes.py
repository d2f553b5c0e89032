"""Watching with flags on the device, loss scaling, several optimizers, accumulation and compile."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad

from esper.watching.watch import Watch


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


HEADS = {"steer": 3, "brake": 2}


@pytest.fixture(autouse=True)
def _validation_of_distributions():
    """torch.compile turns the validation of arguments off, for the whole process."""
    yield
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture
def policy():
    torch.manual_seed(0)
    return Policy()


def loss_of(policy, observations, weights):
    logits, values = policy(observations)
    return (logits.log_softmax(-1)[:, 0] * weights).mean() + values.square().mean()


def found(watch):
    return [
        (one.owner, one.quantity, one.kind)
        for trouble in watch.troubles
        for one in trouble.explanation.found
    ]


def steps(policy, optimizer, count, *, break_at=None, what=None):
    generator = torch.Generator().manual_seed(1)
    for number in range(1, count + 1):
        observations = torch.randn(16, 4, generator=generator)
        if number == break_at:
            what(observations)
        optimizer.zero_grad()
        loss_of(policy, observations, torch.ones(16)).backward()
        clip_grad.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()


def break_head(policy, rows):
    def what(_observations):
        with torch.no_grad():
            policy.actor.bias[rows] = torch.nan

    return what


class TestFlagsOnTheDevice:
    def test_a_clean_update_has_its_norms(self, policy):
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
        by_step = Watch([copy.deepcopy(policy)], when="step")
        by_step.close()
        with Watch([policy], [optimizer], HEADS, when="update", finds_updates=False) as watch:
            records = []
            watch.record_with(_Keeping(records))
            steps(policy, optimizer, 4)
            watch.update()

        assert watch.failures == 0, watch.last_failure
        assert watch.troubles == []
        assert records[0].norms == 4
        assert records[0].norm_max >= records[0].norm_sum / 4 > 0

    @pytest.mark.parametrize(("rows", "head"), [(slice(1, 2), "steer"), (slice(4, 5), "brake")])
    def test_the_head_and_the_first_step_are_named(self, policy, rows, head):
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
        with Watch([policy], [optimizer], HEADS, when="update", finds_updates=False) as watch:
            steps(policy, optimizer, 5, break_at=3, what=break_head(policy, rows))
            watch.update()

        (trouble,) = watch.troubles
        assert found(watch) == [(head, "logits", "nan")]
        assert trouble.minibatch == 3
        assert "when='step'" in trouble.explanation.why_no_origin

    @pytest.mark.parametrize("clips", [True, False])
    def test_the_first_step_with_a_bad_gradient_is_named(self, policy, clips):
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
        with Watch([policy], [optimizer], when="update", finds_updates=False) as watch:
            for number in range(1, 4):
                optimizer.zero_grad()
                loss = policy(torch.randn(16, 4))[1].square().mean()
                if number == 2:  # only the derivative is NaN
                    loss = loss + (policy.critic.weight * 0).abs().sqrt().sum()
                loss.backward()
                if clips:
                    clip_grad.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
            watch.update()

        (trouble,) = watch.troubles
        assert trouble.minibatch == 2

    def test_what_breaks_in_all_heads_is_shared(self, policy):
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
        with Watch([policy], [optimizer], HEADS, when="update", finds_updates=False) as watch:
            steps(policy, optimizer, 3, break_at=2, what=lambda o: o.fill_(torch.nan))
            watch.update()

        assert found(watch) == [("shared", "features", "nan")]

    def test_norms_agree_with_those_of_a_watch_by_step(self, policy):
        norms = {}
        for when in ("step", "update"):
            own = copy.deepcopy(policy)
            optimizer = torch.optim.SGD(own.parameters(), lr=0.01)
            records = []
            with Watch([own], [optimizer], HEADS, when=when, finds_updates=False) as watch:
                watch.record_with(_Keeping(records))
                steps(own, optimizer, 4)
            norms[when] = records[0].norm_sum, records[0].norm_max, records[0].norms

        assert norms["update"] == pytest.approx(norms["step"], rel=1e-5)


class _Keeping:
    def __init__(self, records):
        self._records = records

    def found(self, trouble):
        pass

    def updated(self, record):
        self._records.append(record)

    def ended(self, status, reason):
        pass


def test_a_loss_scale_that_is_too_high_is_ordinary(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with Watch([policy], [optimizer], HEADS) as watch:
        for _ in range(6):
            optimizer.zero_grad()
            loss = 100 * loss_of(policy, torch.randn(16, 4), torch.ones(16))
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            clip_grad.clip_grad_norm_(policy.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()

    assert scaler.get_scale() < 2.0**127
    assert (watch.troubles, watch.failures) == ([], 0)


def test_a_nan_that_the_loss_scaler_would_hide_is_found(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with Watch([policy], [optimizer], HEADS) as watch:
        for number in range(3):
            if number == 1:
                break_head(policy, slice(0, 1))(None)
            optimizer.zero_grad()
            scaler.scale(loss_of(policy, torch.randn(16, 4), torch.ones(16))).backward()
            scaler.step(optimizer)
            scaler.update()

    assert found(watch) == [("steer", "parameters", "nan")]


def test_a_step_that_the_loss_scaler_leaves_out_is_counted(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    records = []
    with Watch([policy], [optimizer], HEADS, finds_updates=False) as watch:
        watch.record_with(_Keeping(records))
        for number in range(1, 6):
            loss = loss_of(policy, torch.randn(16, 4), torch.ones(16))
            if number in (1, 4):
                loss = loss * (1e36 if number == 1 else torch.nan)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    assert [trouble.minibatch for trouble in watch.troubles] == [4]
    assert (records[0].steps, records[0].skipped, records[0].left_out) == (5, 2, 0)


def test_two_clips_of_one_optimizer_are_both_looked_at(policy):
    """As in rsl_rl, which clips the actor and then the critic."""
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    with Watch([policy], [optimizer], HEADS) as watch:
        weights = torch.ones(16)
        weights[3] = torch.inf
        loss_of(policy, torch.randn(16, 4), weights).backward()
        clip_grad.clip_grad_norm_([*policy.trunk.parameters(), *policy.actor.parameters()], 1.0)
        clip_grad.clip_grad_norm_(policy.critic.parameters(), 1.0)
        optimizer.step()

    assert len(watch.troubles) == 1


def test_two_optimizers_are_told_apart(policy):
    actor = torch.optim.Adam([*policy.trunk.parameters(), *policy.actor.parameters()], lr=0.01)
    critic = torch.optim.Adam(policy.critic.parameters(), lr=0.01)
    with Watch([policy], [actor, critic], HEADS) as watch:
        for number in range(3):
            actor.zero_grad()
            critic.zero_grad()
            _, values = policy(torch.randn(16, 4))
            target = torch.full((16,), torch.nan if number == 2 else 1.0)
            (values - target).square().mean().backward()
            critic.step()
            actor.zero_grad()
            logits, _ = policy(torch.randn(16, 4))
            logits.log_softmax(-1)[:, 0].mean().backward()
            actor.step()

    (trouble,) = watch.troubles
    assert found(watch) == [("shared", "target", "nan")]
    assert trouble.explanation.origin is not None


def test_accumulated_gradients_hold_no_outputs(policy):
    """Logits of a language model are large; none is kept alive until the step."""
    import gc
    import weakref

    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    with Watch([policy], [optimizer], HEADS) as watch:
        outputs = []
        for _ in range(3):
            logits, values = policy(torch.randn(16, 4))
            (logits.logsumexp(-1).mean() + values.mean()).backward()
            outputs.append(weakref.ref(logits))
            del logits, values
        gc.collect()
        assert [one() for one in outputs] == [None] * 3
        optimizer.step()

    assert watch.troubles == []


def test_logits_that_break_while_acting_name_the_operation(policy):
    class Broken(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, observations):
            return self.inner(torch.exp(observations * 1000) - torch.exp(observations * 1000))

    model = Broken(policy)
    with Watch([model], heads=HEADS) as watch, torch.no_grad():
        model(torch.ones(2, 4))

    (trouble,) = watch.troubles
    assert trouble.phase == "acting"
    origin = trouble.explanation.origin
    assert origin is not None
    assert origin.operation.name.startswith("aten.exp")
    assert "torch.exp(observations * 1000)" in origin.operation.place.code


def test_the_loop_is_not_run_again_with_replay_model(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    calls = []
    policy.trunk.register_forward_hook(lambda *_: calls.append(1))
    with Watch([policy], [optimizer], HEADS, replay="off") as watch:
        steps(policy, optimizer, 2, break_at=2, what=lambda o: o.fill_(torch.inf))

    assert len(calls) == 2
    (trouble,) = watch.troubles
    assert trouble.explanation.origin is None
    assert "switched off" in trouble.explanation.why_no_origin


def test_half_precision_logits_whose_sum_overflows_are_fine():
    layer = nn.Linear(4, 4).to(torch.float16)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(60000.0)
    with Watch([layer], heads={"word": 4}) as watch, torch.no_grad():
        layer(torch.zeros(64, 4, dtype=torch.float16))

    assert watch.troubles == []


@pytest.mark.parametrize("is_compiled_first", [True, False])
def test_compiled_models_are_watched(policy, is_compiled_first):
    compiled = torch.compile(policy, backend="aot_eager") if is_compiled_first else None
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    with Watch([policy], [optimizer], HEADS) as watch:
        if compiled is None:
            compiled = torch.compile(policy, backend="aot_eager")
        steps(compiled, optimizer, 3, break_at=2, what=break_head(policy, slice(4, 5)))

    assert watch.failures == 0, watch.last_failure
    assert found(watch)[0] == ("brake", "parameters", "nan")


def test_a_watched_model_is_saved_copied_and_exported(policy):
    watch = Watch([policy], heads=HEADS)
    torch.save(policy, io.BytesIO())
    copied = copy.deepcopy(policy)
    copied(torch.full((1, 4), torch.nan))
    assert watch.troubles == []

    watch.pause()
    exported = torch.export.export(policy, (torch.zeros(1, 4),)).module()
    assert exported(torch.zeros(1, 4))[0].shape == (1, 5)
    watch.resume()
    with torch.no_grad():
        policy(torch.full((1, 4), torch.nan))
    assert len(watch.troubles) == 1
    watch.close()


def test_updates_end_where_acting_ends(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    records = []
    with Watch([policy], [optimizer], HEADS) as watch:
        watch.record_with(_Keeping(records))
        for _ in range(3):
            with torch.no_grad():
                policy(torch.zeros(1, 4))
            steps(policy, optimizer, 2)

    assert [(record.number, record.steps) for record in records] == [(1, 2), (2, 2), (3, 2)]


def test_after_the_first_call_of_update_only_its_calls_end_updates(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    records = []
    with Watch([policy], [optimizer], HEADS) as watch:
        watch.record_with(_Keeping(records))
        for _ in range(3):
            for _part in range(2):
                with torch.no_grad():
                    policy(torch.zeros(1, 4))
                steps(policy, optimizer, 2)
            watch.update(loss=1.0)

    assert [record.steps for record in records[-2:]] == [4, 4]


def test_learning_time_belongs_to_the_update_that_ends_within_it(policy):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    records = []
    with Watch([policy], [optimizer], HEADS, finds_updates=False) as watch:
        watch.record_with(_Keeping(records))
        for _ in range(3):
            with watch.updating():
                steps(policy, optimizer, 3)
                watch.update()
        with torch.no_grad():
            policy(torch.full((1, 4), torch.nan))

    assert len(records) == 4
    learning = [(one.update_seconds or 0.0, one.ended - one.began) for one in records]
    assert all(0 <= spent <= whole for spent, whole in learning)
    assert all(spent > 0 for spent, _ in learning[:3])


def test_autocast_ends_where_it_ended_though_its_one_context_was_entered_twice(policy):
    """As in Accelerate, which decorates the forward call with one context for all calls."""
    context = torch.autocast("cpu", dtype=torch.bfloat16)
    policy.forward = context(policy.forward)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.01)
    with Watch([policy], [optimizer], HEADS) as watch:
        for number in range(3):
            observations = torch.full((4, 4), torch.nan if number == 1 else 1.0)
            logits, values = policy(observations)
            loss = logits.float().log_softmax(-1)[:, 0].mean() + values.float().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert not torch.is_autocast_enabled("cpu")

    assert watch.troubles[0].explanation.origin is not None

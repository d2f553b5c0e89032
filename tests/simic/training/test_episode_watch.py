"""NaN and Inf while episodes run: named by head, host and step, and never acted on."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from poisoned_episodes import STEPS, PoisonedAgent, PoisonedHosts, Spoil, short
from waiting import one_thread

from esper.growth.environment.divided import LEAST_HOSTS
from esper.growth.hosts.host_faults import HostFault
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.leyline.telemetry import HOSTS, SHARED, DecisionsTaken
from esper.simic.agent.ppo import PPOAgent
from esper.simic.telemetry.emitters import emit_episodes
from esper.simic.training.collecting import Batch, collect
from esper.simic.training.faults.episode_watch import HOSTS_NAMED, EpisodeWatch
from esper.tamiyo import acting as tamiyo_acting
from esper.tamiyo.policy import HeadLayout

COUNT = 4
OFFSETS = dict(zip(HEAD_NAMES, np.cumsum((0, *HEAD_SIZES[:-1])).tolist(), strict=True))
SIZES = dict(zip(HEAD_NAMES, HEAD_SIZES, strict=True))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def run(event_log: Any) -> Iterator[Callable[..., tuple[Batch, Any]]]:
    """Collects one batch of episodes: what it gave, and the events."""
    made = []

    def run(
        spoil: Spoil | None = None,
        at: int = 3,
        lasting: bool = False,
        *,
        count: int = COUNT,
        processes: int = 1,
        before: Any = None,
        after: Any = None,
    ) -> tuple[Batch, Any]:
        hosts = PoisonedHosts(count, processes, before, after)
        made.append(hosts)
        agent = PoisonedAgent(spoil=spoil, at=at, lasting=lasting)
        log = event_log()
        batch = collect(hosts, agent, log, seeds=list(range(count)), update=1, first_episode=1,
                        on_step=lambda _: None)  # fmt: skip
        return batch, log

    yield run
    for hosts in made:
        hosts.close()


def acting(
    head: str, quantity: str, kind: str, host: int, step: int, count: int = 1
) -> tuple[Any, ...]:
    return "acting", head, quantity, kind, host, step, count


def bias(head: str, value: float, choice: int = 0) -> Spoil:
    """Return what writes a value into the bias of one choice of a head."""

    def spoil(agent: PPOAgent) -> None:
        agent.policy.heads.bias[OFFSETS[head] + choice] = value

    return spoil


def test_finite_episodes_have_no_sightings(run: Callable[..., tuple[Batch, Any]]) -> None:
    batch, _ = run()
    assert batch.sightings == []
    assert batch.rollout.learnable.tolist() == [True] * COUNT


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(("value", "kind"), [(math.nan, "nan"), (math.inf, "+inf")])
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_a_broken_head_is_named_and_its_action_is_legal(
    run: Callable[..., tuple[Batch, Any]], head: str, value: float, kind: str, lasting: bool
) -> None:
    batch, log = run(bias(head, value), 3, lasting)

    steps = STEPS - 2 if lasting else 1
    assert [short(seen) for seen in batch.sightings] == [acting(head, "logits", kind, 0, 3, steps)]
    assert batch.rollout.learnable.all(), "nothing that is learnt from is broken"
    column = HEAD_NAMES.index(head)
    if head == "op":
        assert (batch.rollout.actions[2, :, column] == Op.WAIT).all()
    legal = batch.rollout.masks.gather(
        -1, batch.rollout.actions + torch.tensor(list(OFFSETS.values()))
    )
    assert legal.all()
    probabilities = np.array(log.of(DecisionsTaken)[2].probabilities)
    decided = batch.rollout.masks[2, :, OFFSETS[head]].numpy()  # elsewhere the mask hid the value
    assert decided.any()
    assert np.isnan(probabilities[:, column]).tolist() == decided.tolist()
    assert np.isfinite(np.delete(probabilities, column, axis=1)).all()


def test_the_other_heads_and_hosts_act_as_they_would_have(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    whole, _ = run()
    broken, _ = run(bias("tempo", math.nan), 1)
    ours, theirs = broken.rollout.actions[0].clone(), whole.rollout.actions[0].clone()
    tempo = HEAD_NAMES.index("tempo")
    ours[:, tempo] = theirs[:, tempo] = 0
    assert ours.equal(theirs)


def test_a_head_that_falls_back_draws_all_of_its_legal_choices(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    batch, _ = run(bias("blueprint", math.nan), 1, lasting=True, count=2 * LEAST_HOSTS)
    drawn = batch.rollout.actions[..., HEAD_NAMES.index("blueprint")].unique()
    assert drawn.tolist() == list(range(SIZES["blueprint"]))


def test_two_broken_heads_are_two(run: Callable[..., tuple[Batch, Any]]) -> None:
    def spoil(agent: PPOAgent) -> None:
        bias("op", math.nan)(agent)
        bias("style", -math.inf, 2)(agent)

    batch, _ = run(spoil, 2)
    assert [short(seen) for seen in batch.sightings] == [
        acting("style", "logits", "-inf", 0, 2),
        acting("op", "logits", "nan", 0, 2),
    ]


def test_minus_infinity_is_legal_where_the_mask_forbids_the_choice(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    legal, _ = run(bias("op", -math.inf, Op.FOSSILIZE), 1)  # nothing can be fossilized yet
    assert legal.sightings == []
    allowed, _ = run(bias("op", -math.inf, Op.GERMINATE), 1)
    assert [short(seen) for seen in allowed.sightings] == [acting("op", "logits", "-inf", 0, 1)]
    assert (allowed.rollout.actions[0, :, -1] == Op.WAIT).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_plus_infinity_and_nan_are_faults_even_where_the_mask_forbids_the_choice(
    run: Callable[..., tuple[Batch, Any]], value: float
) -> None:
    whole, _ = run()
    batch, _ = run(bias("op", value, Op.FOSSILIZE), 1)
    kind = "nan" if math.isnan(value) else "+inf"
    assert [short(seen) for seen in batch.sightings] == [acting("op", "logits", kind, 0, 1)]
    assert batch.rollout.actions.equal(whole.rollout.actions), "the draw was never broken"


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_broken_critic_is_the_value_alone(
    run: Callable[..., tuple[Batch, Any]], value: float
) -> None:
    def spoil(agent: PPOAgent) -> None:
        agent.policy.critic.bias[0] = value

    whole, _ = run()
    batch, log = run(spoil, 4)
    kind = "nan" if math.isnan(value) else "-inf"
    assert [short(seen) for seen in batch.sightings] == [acting(SHARED, "value", kind, 0, 4)]
    assert batch.rollout.actions.equal(whole.rollout.actions)
    assert not batch.rollout.learnable.any(), "advantages would come of that value"
    assert not any(math.isfinite(value) for value in log.of(DecisionsTaken)[3].values)


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("name", ["features.weight", "feature_norm.bias", "lstm.weight_hh_l0"])
def test_a_broken_trunk_is_seen_once_though_its_state_stays_broken(
    run: Callable[..., tuple[Batch, Any]], name: str, lasting: bool
) -> None:
    def spoil(agent: PPOAgent) -> None:
        dict(agent.policy.named_parameters())[name].view(-1)[0] = math.nan

    batch, _ = run(spoil, 3, lasting)
    assert [short(seen) for seen in batch.sightings] == [acting(SHARED, "trunk", "nan", 0, 3)]
    assert not batch.rollout.learnable.any()
    assert batch.rollout.values[:2].isfinite().all()
    assert batch.rollout.values[2:].isnan().all()
    assert (batch.rollout.actions[2:, :, -1] == Op.WAIT).all()


def test_a_trunk_with_a_bad_output_is_seen_at_each_step_of_it(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    """Its state is finite: nothing is handed on to the next step."""
    calls = []

    def break_host_1(_module: Any, _inputs: Any, output: Any) -> Any:
        calls.append(None)
        trunk, state = output
        if len(calls) in (2, 5):
            trunk = trunk.clone()
            trunk[0, 1, 3] = math.nan
        return trunk, state

    batch, _ = run(lambda agent: agent.policy.lstm.register_forward_hook(break_host_1), 1)
    assert [short(seen) for seen in batch.sightings] == [acting(SHARED, "trunk", "nan", 1, 2, 2)]
    assert batch.rollout.learnable.tolist() == [True, False, True, True]


def test_a_recurrent_state_that_broke_behind_a_finite_trunk(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    calls = []

    def break_host_2(_module: Any, _inputs: Any, output: Any) -> Any:
        calls.append(None)
        trunk, (hidden, cell) = output
        if len(calls) == 2:
            cell = cell.clone()
            cell[0, 2, 0] = math.nan
        return trunk, (hidden, cell)

    batch, _ = run(lambda agent: agent.policy.lstm.register_forward_hook(break_host_2), 1)
    assert [short(seen) for seen in batch.sightings] == [
        acting(SHARED, "recurrent_state", "nan", 2, 2)
    ]
    assert batch.rollout.learnable.tolist() == [True, True, False, True]


def test_a_broken_recurrent_state_does_not_hide_a_broken_head(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    """Of host 2 the state breaks in step 2 and stays so; the trunk is kept finite."""
    calls = []

    def break_state(_module: Any, _inputs: Any, output: Any) -> Any:
        calls.append(None)
        trunk, (hidden, cell) = output
        if len(calls) == 2:
            cell = cell.clone()
            cell[0, 2, 0] = math.nan
        return trunk.nan_to_num(), (hidden, cell)

    def break_tempo(_module: Any, _inputs: Any, logits: Any) -> Any:
        if len(calls) == 4:
            logits = logits.clone()
            logits[0, 2, OFFSETS["tempo"]] = math.nan
        return logits

    def spoil(agent: PPOAgent) -> None:
        agent.policy.lstm.register_forward_hook(break_state)
        agent.policy.heads.register_forward_hook(break_tempo)

    batch, _ = run(spoil, 1)
    assert [short(seen) for seen in batch.sightings] == [
        acting(SHARED, "recurrent_state", "nan", 2, 2),
        acting("tempo", "logits", "nan", 2, 4),
    ]


def test_a_finite_trunk_is_not_blamed_for_later_layers(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    def spoil(agent: PPOAgent) -> None:
        agent.policy.heads.bias.fill_(math.nan)
        agent.policy.critic.bias.fill_(math.nan)

    batch, _ = run(spoil, 3)
    assert [short(seen) for seen in batch.sightings] == [
        *(acting(head, "logits", "nan", 0, 3) for head in HEAD_NAMES),
        acting(SHARED, "value", "nan", 0, 3),
    ]


def test_a_finite_trunk_whose_sum_overflows_is_not_blamed(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    def spoil(agent: PPOAgent) -> None:
        for module in (agent.policy.heads, agent.policy.critic):
            module.weight.zero_()
        agent.policy.lstm.register_forward_hook(
            lambda _module, _inputs, output: (torch.full_like(output[0], 3e38), output[1])
        )

    batch, _ = run(spoil, 1, lasting=True)
    assert batch.sightings == []
    assert batch.rollout.learnable.all()


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "nan"), (-math.inf, "-inf")])
def test_a_broken_observation_explains_its_host_and_no_other(
    run: Callable[..., tuple[Batch, Any]], value: float, kind: str
) -> None:
    def spoil(observations: np.ndarray) -> None:
        observations[1, 2] = value

    whole, _ = run()
    batch, _ = run(after=(2, spoil))  # seen in step 3
    assert [short(seen) for seen in batch.sightings] == [acting(SHARED, "observations", kind, 1, 3)]
    assert batch.rollout.learnable.tolist() == [True, False, True, True]
    others = [0, 2, 3]
    # Beyond step 3 host 1 waits, and hosts whose seeds run as one batch differ in last bits.
    assert batch.rollout.actions[:3, others].equal(whole.rollout.actions[:3, others])
    assert batch.rollout.values[:3, others].equal(whole.rollout.values[:3, others])
    assert batch.rollout.values[:, others].isfinite().all()


def test_a_broken_host_does_not_hide_a_head_that_broke_in_another(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    def spoil(observations: np.ndarray) -> None:
        observations[0, 2] = math.nan

    batch, _ = run(bias("tempo", math.nan), 3, after=(2, spoil))
    assert [short(seen) for seen in batch.sightings] == [
        acting(SHARED, "observations", "nan", 0, 3),
        acting("tempo", "logits", "nan", 1, 3),
    ]


@pytest.mark.parametrize(
    ("step", "row", "value", "quantity", "part", "count", "processes"),
    [
        (2, 0, math.nan, "parameters", "block0.weight", COUNT, 1),
        (STEPS, 0, math.nan, "parameters", "block0.weight", COUNT, 1),
        (3, 0, math.inf, "parameters", "block0.weight", COUNT, 1),
        (STEPS, 1, math.nan, "moments", "exp_avg of block0.weight", COUNT, 1),
        (3, 2, -1.0, "moments", "exp_avg_sq of block0.weight", COUNT, 1),
        (STEPS, 2, -1.0, "moments", "exp_avg_sq of block0.weight", 2 * LEAST_HOSTS, 2),
    ],
)
def test_a_broken_host_is_named_and_left_out_of_learning(
    run: Callable[..., tuple[Batch, Any]],
    event_log: Any,
    step: int,
    row: int,
    value: float,
    quantity: str,
    part: str,
    count: int,
    processes: int,
) -> None:
    host = count - 1
    batch, _ = run(count=count, processes=processes, before=(step, host, row, value))

    (seen,) = batch.sightings
    kind = "+inf" if value == math.inf else "nan"
    assert short(seen) == ("hosts", HOSTS, quantity, kind, host, step, STEPS - step + 1)
    assert seen.part == part
    assert seen.reproduced
    assert (~batch.rollout.learnable).nonzero().flatten().tolist() == [host]
    ended = emit_episodes(event_log(), batch.last_info, batch.returns, update=1, first_episode=1)
    assert [math.isnan(score) for score in ended.score] == [False] * host + [True]
    assert [math.isnan(each) for each in ended.returns] == [False] * host + [True]
    others = batch.rollout.learnable
    for tensor in (batch.rollout.observations, batch.rollout.values, batch.rollout.rewards):
        assert tensor[:, others].isfinite().all()


@pytest.mark.parametrize(("count", "processes"), [(COUNT, 1), (2 * LEAST_HOSTS, 2)])
def test_each_broken_host_is_named(
    run: Callable[..., tuple[Batch, Any]], count: int, processes: int
) -> None:
    last = count - 1
    before = [(2, last, 0, math.nan), (4, 0, 0, math.nan), (4, 1, 1, math.nan)]
    batch, _ = run(count=count, processes=processes, before=before)

    assert [short(seen) for seen in batch.sightings] == [
        ("hosts", HOSTS, "parameters", "nan", last, 2, STEPS - 1),
        ("hosts", HOSTS, "moments", "nan", 1, 4, STEPS - 3),
        ("hosts", HOSTS, "parameters", "nan", 0, 4, STEPS - 3),
    ]
    assert {seen.part for seen in batch.sightings} == {"block0.weight", "exp_avg of block0.weight"}
    assert (~batch.rollout.learnable).nonzero().flatten().tolist() == [0, 1, last]


def test_only_the_first_of_many_broken_hosts_are_named() -> None:
    hosts = HOSTS_NAMED + 5
    watch = EpisodeWatch(hosts, HeadLayout())
    watch.hosts(1, [HostFault(hosts - 1, "loss", "nan", "validation")])
    for step in (2, 3):
        watch.hosts(step, [HostFault(host, "loss", "nan", "validation") for host in range(hosts)])

    sightings = watch.sightings()
    assert [seen.host for seen in sightings] == [hosts - 1, *range(HOSTS_NAMED - 1)]
    assert [seen.count for seen in sightings] == [3, *[2] * (HOSTS_NAMED - 1)]
    assert not watch.learnable.any()


def test_a_harmless_infinity_in_a_host_is_named_too(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    batch, _ = run(before=(STEPS, 1, 2, math.inf))
    (seen,) = batch.sightings
    assert short(seen) == ("hosts", HOSTS, "moments", "+inf", 1, STEPS, 1)
    assert batch.rollout.learnable.tolist() == [True, False, True, True]
    assert np.isfinite(batch.last_info["score"]).all()


def test_hosts_come_before_acting(run: Callable[..., tuple[Batch, Any]]) -> None:
    batch, _ = run(bias("slot", math.nan), 2, before=(4, 2, 0, math.nan))
    assert [short(seen)[:6] for seen in batch.sightings] == [
        ("hosts", HOSTS, "parameters", "nan", 2, 4),
        ("acting", "slot", "logits", "nan", 0, 2),
    ]


def test_the_time_that_hosts_take_is_a_part_of_the_batch(
    run: Callable[..., tuple[Batch, Any]],
) -> None:
    batch, _ = run()

    assert 0.0 < batch.hosts_seconds <= batch.seconds


def test_a_log_probability_that_breaks_behind_finite_logits_is_seen(
    run: Callable[..., tuple[Batch, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    softmax, calls, head = tamiyo_acting.masked_log_softmax, 0, HEAD_NAMES.index("tempo")

    def broken(choices: torch.Tensor, illegal: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        log_probs = softmax(choices, illegal)
        if calls == 2:  # of the first step, for all heads but `op`
            log_probs[:, 1, head] = math.nan
        return log_probs

    monkeypatch.setattr(tamiyo_acting, "masked_log_softmax", broken)
    batch, _ = run()
    assert [(s.head, s.quantity, s.kind, s.host, s.step) for s in batch.sightings] == [
        ("tempo", "log_prob", "nan", 1, 1)
    ]
    assert batch.rollout.learnable is not None
    assert batch.rollout.learnable.all()

"""NaN and Inf while episodes run: named by head, host and step, and never acted on."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from esper.growth.divided import LEAST_HOSTS, DividedHosts
from esper.growth.env import GrowthVectorEnv
from esper.growth.tasks import Split, Task
from esper.leyline.heads import HEAD_NAMES, HEAD_SIZES, Op
from esper.leyline.telemetry import HOSTS, SHARED, DecisionsTaken, NonfiniteSighting
from esper.simic.agent.ppo import PPOAgent
from esper.simic.collecting import Batch, collect
from esper.simic.config import TrainingConfig
from esper.simic.telemetry.emitters import emit_episodes
from esper.tamiyo.acting import Decision
from esper.tamiyo.policy import RecurrentPolicy

STEPS = 6
COUNT = 4
OFFSETS = dict(zip(HEAD_NAMES, np.cumsum((0, *HEAD_SIZES[:-1])).tolist(), strict=True))
SIZES = dict(zip(HEAD_NAMES, HEAD_SIZES, strict=True))

Spoil = Callable[[PPOAgent], None]


class PoisonedAgent(PPOAgent):
    """An agent whose policy is spoilt before some steps, and mended after them or never."""

    def __init__(self, *, spoil: Spoil | None, at: int, lasting: bool) -> None:
        torch.manual_seed(0)
        policy = RecurrentPolicy(83, feature_size=16, lstm_size=16)
        super().__init__(policy, TrainingConfig(), seed=1)
        self._spoil, self._at, self._lasting, self._step = spoil, at, lasting, 0

    def act(self, *arguments: Any) -> Decision:
        self._step += 1
        if self._spoil is None or self._step != self._at:
            return super().act(*arguments)
        whole = {name: value.clone() for name, value in self.policy.state_dict().items()}
        with torch.no_grad():
            self._spoil(self)
        decision = super().act(*arguments)
        if not self._lasting:
            self.policy.load_state_dict(whole)
        return decision


def small_task() -> Task:
    """Return a task of vectors whose slices take milliseconds."""
    generator = torch.Generator().manual_seed(0)

    def split(samples: int) -> Split:
        inputs = torch.randn(samples, 5, generator=generator)
        return Split(inputs, (inputs.sum(1) > 0).long())

    return Task("signs", split(32), split(16), split(16), classes=2, channels=4)


class PoisonedHosts(DividedHosts):
    """Hosts of which something is spoilt before or after one step."""

    def __init__(self, count: int, processes: int, before: Any, after: Any) -> None:
        super().__init__(count, processes, task=small_task(), steps=STEPS, batch=8, batches=1)
        self._before, self._after, self._step = before, after, 0

    def step(self, actions: np.ndarray) -> Any:
        self._step += 1
        if self._before is not None and self._step == self._before[0]:
            self.call(spoil_host, lambda part: (part.start, *self._before[1:]))
        result = super().step(actions)
        if self._after is not None and self._step == self._after[0]:
            self._after[1](result[0])
        return result


def spoil_host(env: GrowthVectorEnv, first: int, host: int, row: int, value: float) -> None:
    """Write a value into the first weight of a host, or into a moment of it."""
    population = env._cohort.population
    if 0 <= host - first < population.hosts:
        column = population.host_columns(np.array([host - first]))[0][0]
        population.state[row, column] = value


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: these tensors are too small for two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def short(sighting: NonfiniteSighting) -> tuple[Any, ...]:
    """Return what matters of a sighting."""
    assert (sighting.epoch, sighting.minibatch) == (0, 0)
    return (
        sighting.phase,
        sighting.head,
        sighting.quantity,
        sighting.kind,
        sighting.host,
        sighting.step,
        sighting.count,
    )


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
    told = np.array(log.of(DecisionsTaken)[2].probabilities)
    decided = batch.rollout.masks[2, :, OFFSETS[head]].numpy()  # elsewhere the mask hid the value
    assert decided.any()
    assert np.isnan(told[:, column]).tolist() == decided.tolist()
    assert np.isfinite(np.delete(told, column, axis=1)).all()


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


def test_a_trunk_that_broke_in_its_output_alone_is_seen_as_often_as_it_broke(
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
        (2, 0, math.nan, "parameters", "block0.weight", 2 * LEAST_HOSTS, 2),
        (STEPS, 2, -1.0, "moments", "exp_avg_sq of block0.weight", 2 * LEAST_HOSTS, 2),
    ],
)
def test_a_broken_host_is_named_and_not_learnt_from(
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

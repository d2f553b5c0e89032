"""Repeats the update of an incident from its starting state, and traces every operation.

It calls `PPOAgent.prepare` and `PPOAgent.learn`, as training does, on an agent that is rebuilt from
the capsule.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from esper.leyline.quantities import SHARED_QUANTITIES
from esper.leyline.telemetry import SHARED, NonfiniteSighting
from esper.simic.agent import figures as figures_module
from esper.simic.agent.detection import codes as codes_module
from esper.simic.agent.detection import readers, update_watch
from esper.simic.agent.detection.examination import Plan
from esper.simic.agent.detection.pass_codes import codes_of_watch
from esper.simic.agent.detection.readers import DERIVATIVES, FORWARD, preparation_codes
from esper.simic.agent.detection.second_pass import seen_in_one_pass
from esper.simic.agent.detection.update_watch import UpdateWatch
from esper.simic.agent.drill_hook import DrillHook
from esper.simic.agent.minibatch import Minibatch, MinibatchTerms, Preparation
from esper.simic.agent.ppo import PPOAgent
from esper.simic.agent.rollout import Rollout
from esper.simic.command_progress import Report, no_report
from esper.simic.config import ConfigError
from esper.simic.drill import parse_injection
from esper.simic.replay.capsule_check import check_capsule
from esper.simic.replay.incidents import Capsule, IncidentError
from esper.simic.replay.rebuilding import rebuild_agent, rebuild_rollout
from esper.simic.replay.remarks import (
    environment_remarks,
    log_prob_remarks,
    other_head_remarks,
    unrepeated_remarks,
)
from esper.simic.replay.verdict import REPEATED_PHASES, judge
from esper.tamiyo.policy import RecurrentPolicy
from esper.tracing.operations import Operation, Poison
from esper.tracing.origin import Columns, Origin, find_origin, origin_in_poison
from esper.tracing.tracer import OperationTracer
from esper.tracing.without_compiler import without_compiler

#: Source files whose operations only read the tensors of training.
OBSERVERS = tuple(
    str(module.__file__) for module in (update_watch, readers, codes_module, figures_module)
)
#: The number of steps that Adam has made.
CLOCK = "optimizer step"
#: Quantities on the path to the loss; an operation that leads to none of them only affects
#: displayed figures.
_LEARNT_FROM = ("policy_loss", "value_loss", "entropy_loss", "loss", "gradient")

#: In place of the number of a minibatch: before the first.
_PREPARATION = -1


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes:
        update: number of the update.
        verdict: REPRODUCED, DIFFERS or NOT_REPRODUCED.
        differences: differences between the sightings, a sentence each.
        recorded: sightings of training, causes first.
        seen: sightings of the replay.
        origin: origin of the first sighting of the replay; None if there is no sighting, or no
            operation leads to it.
        poisons: inputs that were not finite before the update computed anything.
        remarks: limits of this replay, a sentence each.
        recorded_with: versions of esper, torch and python, device and threads, in words.
        is_acting: whether a choice of actions was repeated, which has no minibatch.
    """

    update: int
    verdict: str
    differences: tuple[str, ...]
    recorded: tuple[NonfiniteSighting, ...]
    seen: tuple[NonfiniteSighting, ...]
    origin: Origin | None
    poisons: tuple[Poison, ...]
    remarks: tuple[str, ...]
    recorded_with: str
    is_acting: bool = False


class TracingWatch(UpdateWatch):
    """The watch of an update, which also records the operations that made the checked tensors.

    Args:
        agent: the agent that makes the update.
        tracer: records every operation.
        on_minibatch: called with the number of each minibatch that is done, counted from 1.
    """

    def __init__(
        self,
        agent: PPOAgent,
        tracer: OperationTracer,
        on_minibatch: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__(agent.policy, agent.parameters, agent.optimizer, agent.loss_scale)
        self._agent = agent
        self._tracer = tracer
        self._on_minibatch = on_minibatch
        self._makers: dict[tuple[int, str, bool], tuple[Operation, ...]] = {}
        self._hook = agent.optimizer.register_step_post_hook(self._after_step)

    def prepared(self, preparation: Preparation) -> None:
        """Remember who made what the old log-probabilities are made of."""
        tensors: dict[str, tuple[Tensor, ...]] = {
            "old_log_prob": (preparation.whole.old_log_probs,)
        }
        for reader in FORWARD:
            if reader.from_output:
                for batch, output in preparation.parts:
                    found = reader.tensors(batch, output, None)
                    tensors[reader.quantity] = (*tensors.get(reader.quantity, ()), *found)
        self._ask_by_scope(_PREPARATION, tensors)

    def forward(self, index: int, batch: Minibatch, terms: MinibatchTerms) -> Tensor:
        """Look as training does, and remember who made what the loss is made of."""
        tensors: dict[str, tuple[Tensor, ...]] = {}
        for reader in FORWARD:
            found = reader.tensors(batch, terms.output, terms)
            tensors[reader.quantity] = (*tensors.get(reader.quantity, ()), *found)
        self._ask_by_scope(index, tensors)
        bad = super().forward(index, batch, terms)
        self._tracer.phase = "backward"
        return bad

    def backward(
        self, index: int, gradient: Tensor, derivatives: Sequence[Tensor | None], excess: Tensor
    ) -> Tensor:
        """Look as training does, and remember who made the gradients."""
        total = super().backward(index, gradient, derivatives, excess)
        of_tensor = dict(zip(DERIVATIVES, derivatives, strict=True))
        parts = self._agent.parameters.split(gradient)
        logits = of_tensor.pop("logits gradient")
        others = [part for part in of_tensor.values() if part is not None]
        heads = [*parts[-2:], *([] if logits is None else [logits])]
        self._ask(index, {"gradient": tuple(heads)}, is_shared=False)
        self._ask(index, {"gradient": (*parts[:-2], *others)}, is_shared=True)
        self._tracer.phase = "step"
        return total

    def _after_step(self, *_: object) -> None:
        index = self._tracer.minibatch or 0
        self._on_minibatch(index + 1)
        heads = tuple(self._agent.policy.heads.parameters())
        of_heads = {id(parameter) for parameter in heads}
        others = tuple(p for p in self._agent.policy.parameters() if id(p) not in of_heads)
        self._ask(index, {"parameters": heads}, is_shared=False)
        scale = (self._agent.loss_scale.scale,)
        self._ask(index, {"moments": self._moments(heads)}, is_shared=False)
        shared = {"parameters": others, "loss_scale": scale, "moments": self._moments(others)}
        self._ask(index, shared, is_shared=True)
        self._tracer.minibatch = index + 1
        self._tracer.phase = "forward"

    def _moments(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = map(self._agent.state.moments_of, parameters)
        return tuple(moment for state in states for moment in state.values())

    def makers(self, sighting: NonfiniteSighting, per_epoch: int) -> tuple[Operation, ...]:
        """Return what made the tensor in which something was first seen."""
        self._hook.remove()
        index = (sighting.epoch - 1) * per_epoch + sighting.minibatch - 1
        if sighting.phase != "update":
            index = _PREPARATION
        return self._makers.get((index, sighting.quantity, sighting.head == SHARED), ())

    def to_loss(self, sighting: NonfiniteSighting, per_epoch: int) -> tuple[Operation, ...]:
        """Return what made the loss, its terms and its gradient in the minibatch of a sighting."""
        index = (sighting.epoch - 1) * per_epoch + sighting.minibatch - 1
        keys = [(index, name, shared) for name in _LEARNT_FROM for shared in (True, False)]
        return tuple(maker for key in keys for maker in self._makers.get(key, ()))

    def _ask_by_scope(self, index: int, tensors: Mapping[str, tuple[Tensor, ...]]) -> None:
        for name, parts in tensors.items():
            self._ask(index, {name: parts}, is_shared=name in SHARED_QUANTITIES)

    def _ask(
        self, index: int, tensors: Mapping[str, tuple[Tensor, ...]], *, is_shared: bool
    ) -> None:
        for quantity, parts in tensors.items():
            makers = (maker for part in parts for maker in self._tracer.makers(part))
            self._makers[index, quantity, is_shared] = tuple(dict.fromkeys(makers))


@without_compiler(OperationTracer)
def replay(capsule: Capsule, report: Report = no_report) -> Replay:
    """Repeat the update of a capsule.

    Args:
        capsule: the capsule.
        report: receives the current work, and the fraction of all work that is done.

    Raises:
        IncidentError: the capsule is inconsistent, or this version cannot build its agent.
    """
    check_capsule(capsule)
    agent, device = rebuild_agent(capsule)
    rollout = rebuild_rollout(capsule, device)
    per_epoch = capsule.minibatches_per_epoch
    minibatches = [hosts.to(device) for hosts in capsule.minibatches]
    try:
        injections = [parse_injection(text) for text in capsule.injections]
    except ConfigError as error:
        raise IncidentError(f"the capsule cannot be replayed: {error}") from error
    recorded = tuple(msgspec.convert(capsule.sightings, list[NonfiniteSighting]))
    before = [seen for seen in recorded if seen.phase not in REPEATED_PHASES]
    total = len(minibatches) + 1  # finding the origin takes about as long as a minibatch

    def done(minibatch: int) -> None:
        report(f"replaying, minibatch {minibatch} of {len(minibatches)}", minibatch / total)

    with _as_it_was(capsule):
        inputs = _inputs(agent, rollout)
        with OperationTracer(
            agent.policy,
            "policy",
            inputs,
            _parts_of(agent),
            numbers=_numbers(agent),
            never_negative=[
                name for name in inputs if name.startswith(("optimizer exp_avg_sq", CLOCK))
            ],
            observers=OBSERVERS,
        ) as tracer:
            watch = TracingWatch(agent, tracer, done)
            report("replaying, preparation", 0.0)
            drills = DrillHook(injections, agent.policy.layout)
            preparation = agent.prepare(rollout, minibatches[:per_epoch])
            watch.prepared(preparation)
            tracer.phase, tracer.minibatch = "forward", 0
            figures, traces = agent.learn(preparation, minibatches, watch, drills)
    report("finding where it began", len(minibatches) / total)
    codes = preparation_codes(preparation, agent.policy.table)
    seen = seen_in_one_pass(
        Plan(rollout, minibatches, per_epoch, before),
        agent.state.anatomy,
        codes_of_watch(traces, codes, watch, figures),
        watch,
    )
    verdict, differences = judge(recorded, seen)
    planted = [str(drill) for drill in injections if drill not in drills.waiting]
    origin = None
    if seen:
        makers = watch.makers(seen[0], per_epoch)
        planted = [text for text in planted if parse_injection(text).head == seen[0].head]
        to_loss = watch.to_loss(seen[0], per_epoch)
        origin = find_origin(makers, planted, _columns_of(agent.policy, seen[0]), to_loss)
        origin = origin or origin_in_poison(seen[0], tracer.poisons, tracer.taker)
    return Replay(
        update=capsule.update,
        verdict=verdict,
        differences=differences,
        recorded=recorded,
        seen=seen,
        origin=origin,
        poisons=tracer.poisons,
        remarks=(
            *environment_remarks(capsule, device),
            *log_prob_remarks(capsule, preparation.whole.old_log_probs),
            *other_head_remarks(seen),
            *unrepeated_remarks(recorded),
        ),
        recorded_with=", ".join(
            (
                *(f"{name} {version}" for name, version in capsule.versions.items()),
                f"{capsule.device}, threads {capsule.threads}",
            )
        ),
    )


def _columns_of(policy: RecurrentPolicy, sighting: NonfiniteSighting) -> tuple[Columns, ...]:
    """Return the columns of the head of a sighting, among all choices and among all heads.

    In parameters, gradients and moments these are rows, one for each choice.
    """
    if sighting.head == SHARED:
        return ()
    layout = policy.layout
    head = layout.names.index(sighting.head)
    start = layout.offsets[head]
    own = range(start, start + layout.sizes[head])
    if sighting.quantity in ("moments", "gradient", "parameters"):
        return (Columns(layout.total, own, of_rows=True),)
    return Columns(layout.total, own), Columns(len(layout.names), range(head, head + 1))


def _parts_of(agent: PPOAgent) -> Callable[[Tensor], Sequence[Tensor]]:
    """Return a function that splits a flat tensor of all parameters, gradients or moments."""
    flat = agent.parameters.flat.shape

    def parts(tensor: Tensor) -> Sequence[Tensor]:
        return agent.parameters.split(tensor) if tensor.shape == flat else (tensor,)

    return parts


def _inputs(agent: PPOAgent, rollout: Rollout) -> dict[str, Tensor]:
    """Return the tensors of an update's starting state, by the names shown in the report."""
    inputs: dict[str, Tensor] = {
        name: value
        for name, value in rollout.__dict__.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    inputs |= dict(
        zip(("initial hidden state", "initial cell state"), rollout.initial_state, strict=True)
    )
    for name, parameter in agent.policy.named_parameters():
        inputs[f"weight {name}"] = parameter
        moments = agent.state.moments_of(parameter)
        inputs |= {f"optimizer {kind} of {name}": value for kind, value in moments.items()}
    for state in agent.optimizer.state.values():
        inputs[CLOCK] = state["step"]
    return inputs | {"loss scale": agent.loss_scale.scale}


def _numbers(agent: PPOAgent) -> dict[str, float]:
    """Return the settings that a number in a computation can be, by name."""
    numbers = {
        f"setting {name}": value
        for name, value in msgspec.structs.asdict(agent.config).items()
        if isinstance(value, float) and name not in ("learning_rate", "entropy_coefficient")
    }
    numbers["setting learning rate"] = agent.optimizer.param_groups[0]["lr"]
    if math.isfinite(agent.entropy_coefficient):  # else the learning rate is wrong
        numbers["setting entropy coefficient"] = agent.entropy_coefficient
    return numbers


@contextmanager
def _as_it_was(capsule: Capsule) -> Iterator[None]:
    """Use threads and generator state of training, and deterministic algorithms."""
    threads_now = torch.get_num_threads()
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(capsule.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng():
            torch.set_rng_state(capsule.torch_generator.cpu())
            yield
    finally:
        torch.set_num_threads(threads_now)
        torch.use_deterministic_algorithms(was_deterministic, warn_only=only_warned)

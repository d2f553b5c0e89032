"""Faults for the detection campaign: a value put into a tensor, and what must be seen of it.

Each function plants one fault into a stage and returns what is expected, or None if the fault has
no place in that stage (a head that was never active has no log-probability that counts).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from detection_stage import VALUES, Expected, Stage, planted, with_parts
from torch import Tensor, nn

from esper.leyline.telemetry import SHARED
from esper.simic.agent import losses, ppo
from esper.tamiyo.categorical import Likelihoods

Fault = Callable[[Stage], Expected | None]


def _once(stage: Stage, head: str, quantity: str, kind: str | None, index: int) -> Expected:
    place = stage.place(index)
    return Expected(head, quantity, kind, place, place)


def _kind(stage: Stage) -> str:
    return stage.random.choice(tuple(VALUES))


def _minibatch(stage: Stage) -> int:
    return stage.random.randrange(len(stage.plan))


def _any_head(stage: Stage) -> int:
    return stage.random.randrange(len(stage.layout.names))


def _counting(stage: Stage, index: int) -> tuple[int, tuple[int, int, int]] | None:
    """Return a head and a place `[T, n, H]` in a minibatch where it was active."""
    head = _any_head(stage)
    place = stage.active_place(stage.plan[index], head)
    return None if place is None else (head, (*place, head))


# Heads


def logits(stage: Stage) -> Expected:
    """A raw logit: any head, active or not; -inf on a choice that is legal."""
    index, kind, head = _minibatch(stage), _kind(stage), _any_head(stage)
    hosts = stage.plan[index]
    step, host = stage.random.randrange(stage.rollout.steps), stage.random.randrange(len(hosts))
    offset = stage.layout.offsets[head]
    columns = list(range(offset, offset + stage.layout.sizes[head]))
    if kind == "-inf":
        legal = stage.rollout.masks[step, hosts[host]].tolist()
        columns = [column for column in columns if legal[column]]
    place = (step, host, stage.random.choice(columns))
    stage.policy.heads.register_forward_hook(
        stage.at(index, lambda output: planted(output, place, VALUES[kind]))
    )
    return _once(stage, stage.layout.names[head], "logits", kind, index)


def log_prob(stage: Stage) -> Expected | None:
    """The log-probability of a choice that counted."""
    index, kind = _minibatch(stage), _kind(stage)
    found = _counting(stage, index)
    if found is None:
        return None
    head, place = found

    def change(taken: Likelihoods, _arguments: object) -> Likelihoods:
        if stage.index != index:
            return taken
        return taken._replace(log_probs=planted(taken.log_probs, place, VALUES[kind]))

    stage.wrap(ppo, "likelihoods", change)
    return _once(stage, stage.layout.names[head], "log_prob", kind, index)


def _with_old(stage: Stage, host: int, changes: dict[tuple[int, int, int], Any]) -> tuple[Any, Any]:
    """Change old log-probabilities; return the first and last place of their host."""

    def change(old: Tensor, _arguments: object) -> Tensor:
        for place, value in changes.items():
            old = planted(old, place, value(old[place]) if callable(value) else value)
        return old

    stage.wrap(stage.agent, "_old_log_probs", change)
    return stage.places_of(host)


def old_log_prob(stage: Stage) -> Expected | None:
    """The log-probability from before the update."""
    host, head, kind = stage.random.randrange(stage.rollout.hosts), _any_head(stage), _kind(stage)
    place = stage.active_place([host], head)
    if place is None:
        return None
    first, last = _with_old(stage, host, {(place[0], host, head): VALUES[kind]})
    return Expected(stage.layout.names[head], "old_log_prob", kind, first, last)


def exploding_ratio(stage: Stage) -> Expected | None:
    """A choice that was all but impossible before: exp overflows."""
    host, head = stage.random.randrange(stage.rollout.hosts), _any_head(stage)
    place = stage.active_place([host], head)
    if place is None:
        return None
    first, last = _with_old(stage, host, {(place[0], host, head): -500.0})
    return Expected(stage.layout.names[head], "ratio", "+inf", first, last)


def exploding_joint_ratio(stage: Stage) -> Expected | None:
    """Two ratios that are large, and whose product is too large."""
    step, host = (
        stage.random.randrange(stage.rollout.steps),
        stage.random.randrange(stage.rollout.hosts),
    )
    heads = stage.rollout.active[step, host].nonzero().flatten().tolist()
    if len(heads) < 2:
        return None
    pair = stage.random.sample(heads, 2)
    lower = {(step, host, head): lambda old: old - 60.0 for head in pair}
    first, last = _with_old(stage, host, lower)
    return Expected(SHARED, "joint_ratio", "+inf", first, last)


def forbidden_choice_taken(stage: Stage) -> Expected | None:
    """A mask that forbids what was done: its probability is 0."""
    host, head = stage.random.randrange(stage.rollout.hosts), _any_head(stage)
    place = stage.active_place([host], head)
    if place is None or stage.layout.sizes[head] < 2:
        return None
    offset, size = stage.layout.offsets[head], stage.layout.sizes[head]
    masks = stage.rollout.masks.clone()
    masks[place[0], host, offset : offset + size] = True
    masks[place[0], host, offset + stage.rollout.actions[place[0], host, head]] = False
    stage.rollout = with_parts(stage.rollout, masks=masks)
    first, last = stage.places_of(host)
    return Expected(stage.layout.names[head], "old_log_prob", "-inf", first, last)


def _terms(stage: Stage, index: int, change: Callable[[Any], dict[str, Tensor]]) -> None:
    def changed(terms: Any, _arguments: object) -> Any:
        return replace(terms, **change(terms)) if stage.index == index else terms

    stage.wrap(ppo, "minibatch_terms", changed)


def ratio(stage: Stage) -> Expected | None:
    """The ratio of one head alone, which is shown and not learnt from."""
    index, kind = _minibatch(stage), _kind(stage)
    found = _counting(stage, index)
    if found is None:
        return None
    head, place = found
    _terms(stage, index, lambda terms: {"ratios": planted(terms.ratios, place, VALUES[kind])})
    return _once(stage, stage.layout.names[head], "ratio", kind, index)


def entropy(stage: Stage) -> Expected | None:
    """The entropy of a head where it counts."""
    index, kind = _minibatch(stage), _kind(stage)
    found = _counting(stage, index)
    if found is None:
        return None
    head, place = found
    stage.wrap(
        losses,
        "normalised_entropies",
        lambda values, _: planted(values, place, VALUES[kind]) if stage.index == index else values,
    )
    return _once(stage, stage.layout.names[head], "entropy", kind, index)


def _break_gradient(stage: Stage, of: nn.Parameter, place: Any, kind: str, index: int) -> None:
    of.register_hook(
        lambda gradient: (
            planted(gradient, place, VALUES[kind]) if stage.index == index else gradient
        )
    )


def _row(stage: Stage, head: int) -> int:
    return stage.layout.offsets[head] + stage.random.randrange(stage.layout.sizes[head])


def _legal_row(stage: Stage, head: int) -> int:
    """Return a choice of a head, made legal everywhere: there, -inf is a fault too."""
    row = _row(stage, head)
    masks = stage.rollout.masks.clone()
    masks[..., row] = True
    stage.rollout = with_parts(stage.rollout, masks=masks)
    return row


def head_gradient(stage: Stage) -> Expected:
    """The gradient of a weight or a bias of one head, with a finite forward pass."""
    index, kind, head = _minibatch(stage), _kind(stage), _any_head(stage)
    place: tuple[int, ...] = (_row(stage, head),)
    parameter = stage.policy.heads.bias
    if stage.random.random() < 0.5:
        parameter = stage.policy.heads.weight
        place = (*place, stage.random.randrange(parameter.shape[1]))
    _break_gradient(stage, parameter, place, kind, index)
    return _once(stage, stage.layout.names[head], "gradient", kind, index)


def logit_gradient(stage: Stage) -> Expected | None:
    """A gradient that breaks on its way back through one logit: head and trunk get it."""
    if len(stage.layout.names) == 1:
        return None  # a policy's only head is all heads
    index, kind, head = _minibatch(stage), _kind(stage), _any_head(stage)
    place = (0, 0, _row(stage, head))

    def change(output: Tensor) -> Tensor:
        if output.requires_grad:
            output.register_hook(lambda gradient: planted(gradient, place, VALUES[kind]))
        return output

    stage.policy.heads.register_forward_hook(stage.at(index, change))
    return _once(stage, stage.layout.names[head], "gradient", None, index)


def head_parameters(stage: Stage) -> Expected:
    """A step that breaks a weight of a head."""
    index, kind, head = _minibatch(stage), _kind(stage), _any_head(stage)
    _break_step(stage, stage.policy.heads.bias, _row(stage, head), kind, index)
    return _once(stage, stage.layout.names[head], "parameters", kind, index)


def head_moment(stage: Stage) -> Expected:
    """A moment of Adam that went bad, of a weight of a head."""
    head = _any_head(stage)
    bias = stage.policy.heads.bias
    return _break_moment(stage, bias, _row(stage, head), stage.layout.names[head])


def weight_of_a_head(stage: Stage) -> Expected:
    """A weight that was broken before the update."""
    kind, head = _kind(stage), _any_head(stage)
    with torch.no_grad():
        stage.policy.heads.weight[_legal_row(stage, head), 0] = VALUES[kind]
    return _always(stage, stage.layout.names[head], "logits")


def huge_weight_of_a_head(stage: Stage) -> Expected:
    """A finite weight so large that the product of its head overflows."""
    head = _any_head(stage)
    with torch.no_grad():
        stage.policy.heads.weight[_legal_row(stage, head)] = 3e38
        # A trunk that is nowhere near 0, so that every product is beyond float32.
        stage.policy.lstm.bias_ih_l0.copy_(torch.full_like(stage.policy.lstm.bias_ih_l0, 4.0))
    return _always(stage, stage.layout.names[head], "logits")


def _always(stage: Stage, head: str, quantity: str) -> Expected:
    return Expected(head, quantity, None, (1, 1), stage.place(len(stage.plan) - 1))


# What is shared


def _host_value(stage: Stage, part: str) -> tuple[Tensor, int, str]:
    host, kind = stage.random.randrange(stage.rollout.hosts), _kind(stage)
    values = getattr(stage.rollout, part)
    step = stage.random.randrange(stage.rollout.steps)
    place = (step, host, *(stage.random.randrange(size) for size in values.shape[2:]))
    return planted(values, place, VALUES[kind]), host, kind


def observations(stage: Stage) -> Expected:
    """An observation from the environment."""
    values, host, kind = _host_value(stage, "observations")
    stage.rollout = with_parts(stage.rollout, observations=values)
    return Expected(SHARED, "observations", kind, *stage.places_of(host))


def rewards(stage: Stage) -> Expected:
    """A reward, or a value from acting: the advantages show it."""
    part = stage.random.choice(("rewards", "values"))
    values, host, kind = _host_value(stage, part)
    stage.rollout = with_parts(stage.rollout, **{part: values})
    if part == "values":
        kind = {"+inf": "-inf", "-inf": "+inf", "nan": "nan"}[kind]
    return Expected(SHARED, "advantages", kind, *stage.places_of(host))


def _advantage(stage: Stage, which: int, quantity: str) -> Expected:
    host, kind = stage.random.randrange(stage.rollout.hosts), _kind(stage)
    place = (stage.random.randrange(stage.rollout.steps), host)

    def change(result: tuple[Tensor, Tensor], _arguments: object) -> tuple[Tensor, ...]:
        return tuple(
            planted(values, place, VALUES[kind]) if number == which else values
            for number, values in enumerate(result)
        )

    stage.wrap(ppo, "generalized_advantages", change)
    return Expected(SHARED, quantity, kind, *stage.places_of(host))


def advantages(stage: Stage) -> Expected:
    """An advantage."""
    return _advantage(stage, 0, "advantages")


def returns(stage: Stage) -> Expected:
    """A value target."""
    return _advantage(stage, 1, "returns")


def initial_state(stage: Stage) -> Expected:
    """The hidden or the cell state that an episode began with."""
    host, kind = stage.random.randrange(stage.rollout.hosts), _kind(stage)
    states = list(stage.rollout.initial_state)
    which = stage.random.randrange(2)
    states[which] = planted(states[which], (0, host, 0), VALUES[kind])
    stage.rollout = with_parts(stage.rollout, initial_state=tuple(states))
    return Expected(SHARED, "recurrent_state", kind, *stage.places_of(host))


def last_state(stage: Stage) -> Expected:
    """The state that the LSTM leaves behind, which no loss shows."""
    index, kind, which = _minibatch(stage), _kind(stage), stage.random.randrange(2)

    def change(result: tuple[Tensor, tuple[Tensor, Tensor]]) -> Any:
        output, state = result
        broken = [planted(part, (0, 0, 0), VALUES[kind]) for part in state]
        return output, tuple(broken[n] if n == which else state[n] for n in range(2))

    stage.policy.lstm.register_forward_hook(stage.at(index, change))
    return _once(stage, SHARED, "recurrent_state", kind, index)


def trunk(stage: Stage) -> Expected:
    """What the LSTM puts out."""
    index, kind = _minibatch(stage), _kind(stage)
    stage.policy.lstm.register_forward_hook(
        stage.at(index, lambda result: (planted(result[0], (0, 0, 0), VALUES[kind]), result[1]))
    )
    return _once(stage, SHARED, "trunk", kind, index)


def features(stage: Stage) -> Expected:
    """A NaN before the LSTM, which reaches all that comes after it."""
    index = _minibatch(stage)
    stage.policy.feature_norm.register_forward_hook(
        stage.at(index, lambda output: planted(output, (0, 0, 0), VALUES["nan"]))
    )
    return _once(stage, SHARED, "trunk", "nan", index)


def weight_of_the_trunk(stage: Stage) -> Expected:
    """A weight of the trunk that was broken before the update."""
    parameter = stage.random.choice(
        (
            stage.policy.features.weight,
            stage.policy.lstm.weight_ih_l0,
            stage.policy.feature_norm.bias,
        )
    )
    with torch.no_grad():
        parameter.view(-1)[0] = VALUES["nan"]
    return _always(stage, SHARED, "trunk")


def value(stage: Stage) -> Expected:
    """What the critic says."""
    index, kind = _minibatch(stage), _kind(stage)
    stage.policy.critic.register_forward_hook(
        stage.at(index, lambda output: planted(output, (0, 0, 0), VALUES[kind]))
    )
    return _once(stage, SHARED, "value", kind, index)


def exploding_value_loss(stage: Stage) -> Expected:
    """A value that is finite, and whose square is not."""
    index = _minibatch(stage)
    stage.policy.critic.register_forward_hook(
        stage.at(index, lambda output: planted(output, (0, 0, 0), 1e25))
    )
    return _once(stage, SHARED, "value_loss", "+inf", index)


def loss_terms(stage: Stage) -> Expected:
    """One term of the loss."""
    index, kind = _minibatch(stage), _kind(stage)
    name = stage.random.choice(("policy_loss", "value_loss", "entropy_loss"))

    def change(terms: Any) -> dict[str, Tensor]:
        broken = getattr(terms, name) + VALUES[kind]
        return {name: broken, "loss": terms.loss + broken}

    _terms(stage, index, change)
    return _once(stage, SHARED, name, kind, index)


def broken_backward(stage: Stage) -> Expected:
    """A finite loss whose gradient is NaN: it breaks in all heads that count, and in the critic."""
    index = _minibatch(stage)

    def change(terms: Any) -> dict[str, Tensor]:
        loss = terms.loss + 0.0
        if loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * VALUES["nan"])
        return {"loss": loss}

    _terms(stage, index, change)
    return _once(stage, SHARED, "gradient", "nan", index)


def _shared_parameter(stage: Stage) -> nn.Parameter:
    own = {id(parameter) for parameter in stage.policy.heads.parameters()}
    shared = [parameter for parameter in stage.policy.parameters() if id(parameter) not in own]
    return stage.random.choice(shared)


def shared_gradient(stage: Stage) -> Expected:
    """The gradient of one parameter of the trunk or the critic."""
    index, kind, parameter = _minibatch(stage), _kind(stage), _shared_parameter(stage)
    place = tuple(stage.random.randrange(size) for size in parameter.shape)
    _break_gradient(stage, parameter, place, kind, index)
    return _once(stage, SHARED, "gradient", kind, index)


def shared_parameters(stage: Stage) -> Expected:
    """A step that breaks a weight of the trunk or the critic."""
    index, kind, parameter = _minibatch(stage), _kind(stage), _shared_parameter(stage)
    _break_step(stage, parameter, stage.random.randrange(parameter.numel()), kind, index)
    return _once(stage, SHARED, "parameters", kind, index)


def shared_moment(stage: Stage) -> Expected:
    """A moment of a weight of the trunk or the critic."""
    parameter = _shared_parameter(stage)
    return _break_moment(stage, parameter, stage.random.randrange(parameter.numel()), SHARED)


def loss_scale(stage: Stage) -> Expected | None:
    """A loss scale that is no number."""
    if stage.config.amp != "fp16":
        return None
    kind = _kind(stage)
    stage.agent.loss_scale.scale.fill_(VALUES[kind])
    return Expected(SHARED, "loss_scale", kind, (1, 1), stage.place(len(stage.plan) - 1))


@torch.no_grad()
def _break_step(stage: Stage, parameter: nn.Parameter, place: int, kind: str, index: int) -> None:
    def change(_result: None, _arguments: object) -> None:
        if stage.index == index:
            parameter.data.view(-1)[place] = VALUES[kind]

    stage.wrap(stage.agent.optimizer, "step", change)


def _break_moment(stage: Stage, parameter: nn.Parameter, place: int, head: str) -> Expected:
    """Break a moment before a step; return what is to be seen of it."""
    index, kind = _minibatch(stage), _kind(stage)
    name = stage.random.choice(("exp_avg", "exp_avg_sq"))
    # A negative second moment is finite, and has no root.
    is_negative = name == "exp_avg_sq" and stage.random.random() < 0.3
    poison = -1.0 if is_negative else VALUES[kind]
    # Moments exist only after a first step; a clean one is taken before the fault.
    stage.agent.update(stage.rollout)
    stage.plan = stage._plan()

    def change(result: Any, _arguments: object) -> Any:
        if stage.index == index:
            stage.agent.moments_of(parameter)[name].view(-1)[place] = poison
        return result

    stage.wrap(stage.agent, "_forward", change)
    if is_negative:
        return _once(stage, head, "parameters", "nan", index)
    last = stage.place(len(stage.plan) - 1)
    return Expected(head, "moments", kind, stage.place(index), last)


FAULTS: tuple[Fault, ...] = (
    logits, log_prob, old_log_prob, exploding_ratio, exploding_joint_ratio, forbidden_choice_taken,
    ratio, entropy, head_gradient, logit_gradient, head_parameters, head_moment, weight_of_a_head,
    huge_weight_of_a_head, observations, rewards, advantages, returns, initial_state, last_state,
    trunk, features, weight_of_the_trunk, value, exploding_value_loss, loss_terms, broken_backward,
    shared_gradient, shared_parameters, shared_moment, loss_scale,
)  # fmt: skip

"""Faults of what the heads share, for the detection campaign."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from msgspec import structs
from torch import Tensor, nn

from detection.faults import Fault, break_gradient, change_terms, hook_gradient
from detection.stage import ANY, PREPARATION, VALUES, Sight, Stage, Where, planted, with_parts
from esper.leyline.telemetry import SHARED
from esper.simic.agent import ppo


def shared_parameter(stage: Stage) -> nn.Parameter:
    """Draw a parameter of the trunk or the critic."""
    own = {id(parameter) for parameter in stage.policy.heads.parameters()}
    shared = [parameter for parameter in stage.policy.parameters() if id(parameter) not in own]
    return stage.random.choice(shared)


def _read(stage: Stage, where: Where, name: str, place: tuple[int, ...], kind: str) -> None:
    """Break a tensor of the minibatch, as the forward pass reads it."""

    def change(batch: Any) -> None:
        if stage.fires(where):
            getattr(batch, name)[place] = VALUES[kind]

    stage.before_forward.append(change)


def observations(stage: Stage, where: Where) -> Sight:
    """An observation, as the minibatch reads it."""
    kind = stage.kind()
    column = stage.random.randrange(stage.observations)
    _read(stage, where, "observations", (where.step, stage.position(where), column), kind)
    return stage.sight_in_host(where, SHARED, "observations", kind)


def given_state(stage: Stage, where: Where) -> Sight:
    """The hidden or the cell state before the first step, as the minibatch reads it."""
    kind, which, position = stage.kind(), stage.random.randrange(2), stage.position(where)

    def change(batch: Any) -> None:
        if stage.fires(where):
            batch.initial_state[which][0, position, 0] = VALUES[kind]

    stage.before_forward.append(change)
    return stage.sight_in_host(where, SHARED, "recurrent_state", kind, step=ANY)


def read_advantages(stage: Stage, where: Where) -> Sight:
    """An advantage, as the minibatch reads it."""
    kind = stage.kind()
    _read(stage, where, "advantages", (where.step, stage.position(where)), kind)
    return stage.sight_in_host(where, SHARED, "advantages", kind)


def read_returns(stage: Stage, where: Where) -> Sight:
    """A value target, as the minibatch reads it."""
    kind = stage.kind()
    _read(stage, where, "returns", (where.step, stage.position(where)), kind)
    return stage.sight_in_host(where, SHARED, "returns", kind)


def _of_rollout(stage: Stage, where: Where, quantity: str, kind: str, step: int | None) -> Sight:
    """Return the sighting of what is broken in the rollout, in every minibatch of its host."""
    first, last = stage.places_of(where.host)
    at = (PREPARATION, ("update", *first))
    return Sight(SHARED, quantity, kind, at, last=last, host=where.host, step=step)


def _break_rollout(stage: Stage, where: Where, name: str, kind: str) -> None:
    values = getattr(stage.rollout, name)
    place = (where.step, where.host, *(stage.random.randrange(n) for n in values.shape[2:]))
    stage.rollout = with_parts(stage.rollout, **{name: planted(values, place, VALUES[kind])})


def rollout_observations(stage: Stage, where: Where) -> Sight:
    """An observation in the rollout."""
    kind = stage.kind()
    _break_rollout(stage, where, "observations", kind)
    return _of_rollout(stage, where, "observations", kind, where.step + 1)


def rollout_rewards(stage: Stage, where: Where) -> Sight:
    """A reward, or a value from acting: the advantages show it from the first step on."""
    kind, name = stage.kind(), stage.random.choice(("rewards", "values"))
    _break_rollout(stage, where, name, kind)
    if name == "values":
        kind = {"+inf": "-inf", "-inf": "+inf", "nan": "nan"}[kind]
    return _of_rollout(stage, where, "advantages", kind, 1)


def rollout_state(stage: Stage, where: Where) -> Sight:
    """The hidden or the cell state that an episode began with."""
    kind, which = stage.kind(), stage.random.randrange(2)
    states = list(stage.rollout.initial_state)
    states[which] = planted(states[which], (0, where.host, 0), VALUES[kind])
    stage.rollout = with_parts(stage.rollout, initial_state=tuple(states))
    return _of_rollout(stage, where, "recurrent_state", kind, ANY)


def _advantage(stage: Stage, where: Where, which: int, quantity: str) -> Sight:
    kind, place = stage.kind(), (where.step, where.host)

    def change(result: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        if not stage.armed:
            return result
        return tuple(
            planted(values, place, VALUES[kind]) if number == which else values
            for number, values in enumerate(result)
        )

    stage.wrap(ppo, "generalized_advantages", change)
    return _of_rollout(stage, where, quantity, kind, where.step + 1)


def advantages(stage: Stage, where: Where) -> Sight:
    """An advantage, where it is computed."""
    return _advantage(stage, where, 0, "advantages")


def returns(stage: Stage, where: Where) -> Sight:
    """A value target, where it is computed."""
    return _advantage(stage, where, 1, "returns")


def left_state(stage: Stage, where: Where) -> Sight:
    """The state that the LSTM leaves behind, which no loss shows."""
    kind, which, position = stage.kind(), stage.random.randrange(2), stage.position(where)

    def change(result: tuple[Tensor, tuple[Tensor, Tensor]]) -> Any:
        output, state = result
        broken = [planted(part, (0, position, 0), VALUES[kind]) for part in state]
        return output, tuple(broken[n] if n == which else state[n] for n in range(2))

    stage.change_output(stage.policy.lstm, where, change)
    return stage.sight_in_host(where, SHARED, "recurrent_state", kind, step=ANY)


def trunk(stage: Stage, where: Where) -> Sight:
    """An output of the LSTM."""
    kind, place = stage.kind(), (where.step, stage.position(where), 0)
    stage.change_output(
        stage.policy.lstm,
        where,
        lambda result: (planted(result[0], place, VALUES[kind]), result[1]),
    )
    return stage.sight_in_host(where, SHARED, "trunk", kind)


def features(stage: Stage, where: Where) -> Sight:
    """A NaN before the LSTM, which reaches everything after it."""
    place = (where.step, stage.position(where), 0)
    stage.change_output(
        stage.policy.feature_norm, where, lambda output: planted(output, place, VALUES["nan"])
    )
    return stage.sight_in_host(where, SHARED, "trunk", "nan")


def value(stage: Stage, where: Where) -> Sight:
    """A value of the critic."""
    kind, place = stage.kind(), (where.step, stage.position(where), 0)
    stage.change_output(
        stage.policy.critic, where, lambda output: planted(output, place, VALUES[kind])
    )
    return stage.sight_in_host(where, SHARED, "value", kind)


def exploding_value_loss(stage: Stage, where: Where) -> Sight:
    """A value that is finite and whose square is not."""
    place = (where.step, stage.position(where), 0)
    stage.change_output(stage.policy.critic, where, lambda output: planted(output, place, 1e25))
    return stage.sight(where, SHARED, "value_loss", "+inf")


def exploding_joint_ratio(stage: Stage, where: Where) -> Sight | None:
    """Two ratios that are large and whose product is too large."""
    heads = stage.rollout.active[where.step, where.host].nonzero().flatten().tolist()
    if len(heads) < 2:
        return None
    pair = stage.random.sample(heads, 2)
    position = stage.position(where)

    def change(batch: Any) -> None:
        if stage.fires(where):
            for head in pair:
                batch.old_log_probs[where.step, position, head] -= 60.0

    stage.before_forward.append(change)
    return stage.sight_in_host(where, SHARED, "joint_ratio", "+inf")


def loss_term(stage: Stage, where: Where) -> Sight:
    """One term of the loss, and the loss with it."""
    kind = stage.kind()
    name = stage.random.choice(("policy_loss", "value_loss", "entropy_loss"))

    def change(terms: Any) -> dict[str, Tensor]:
        broken = getattr(terms, name) + VALUES[kind]
        return {name: broken, "loss": terms.loss + broken}

    change_terms(stage, where, change)
    return stage.sight(where, SHARED, name, kind)


def loss_alone(stage: Stage, where: Where) -> Sight:
    """The sum alone, with finite terms."""
    kind = stage.kind()
    change_terms(stage, where, lambda terms: {"loss": terms.loss + VALUES[kind]})
    return stage.sight(where, SHARED, "loss", kind)


def exploding_loss(stage: Stage, where: Where) -> Sight | None:
    """Finite terms whose weighted sum overflows."""
    if stage.config.amp == "fp16":
        return None  # its coefficient makes the trunk's derivatives overflow in fp16, too
    stage.agent.config = structs.replace(stage.agent.config, value_coefficient=1e6)
    place = (where.step, stage.position(where), 0)
    stage.change_output(stage.policy.critic, where, lambda output: planted(output, place, 3e18))
    return stage.sight(where, SHARED, "loss", "+inf")


def _derivative(of: Callable[[Any], Tensor], stage: Stage, where: Where) -> Sight:
    place, poison = (where.step, stage.position(where)), VALUES[stage.kind()]
    change_terms(stage, where, lambda terms: hook_gradient(of(terms), place, poison))
    return stage.sight(where, SHARED, "gradient", None, host=ANY, step=ANY)


def loss_gradient(stage: Stage, where: Where) -> Sight:
    """A finite loss whose derivative is NaN: every gradient is."""

    def change(terms: Any) -> dict[str, Tensor]:
        loss = terms.loss + 0.0
        hook_gradient(loss, (), VALUES["nan"])
        return {"loss": loss}

    change_terms(stage, where, change)
    return stage.sight(where, SHARED, "gradient", "nan", host=ANY, step=ANY)


def joint_gradient(stage: Stage, where: Where) -> Sight:
    """The derivative of the joint log-ratio in one step of one host."""
    return _derivative(lambda terms: terms.log_ratio, stage, where)


def value_gradient(stage: Stage, where: Where) -> Sight:
    """The derivative of a value in one step of one host."""
    return _derivative(lambda terms: terms.output.values, stage, where)


def shared_gradient(stage: Stage, where: Where) -> Sight:
    """The gradient of one parameter of the trunk or the critic."""
    kind, parameter = stage.kind(), shared_parameter(stage)
    place = tuple(stage.random.randrange(size) for size in parameter.shape)
    break_gradient(stage, where, parameter, place, kind)
    return stage.sight(where, SHARED, "gradient", kind)


def loss_scale(stage: Stage, where: Where) -> Sight | None:
    """The fp16 loss scale, between two minibatches."""
    if stage.config.amp != "fp16":
        return None
    kind, scaler = stage.kind(), stage.agent.loss_scale

    def change(_batch: Any) -> None:
        if stage.fires(where):
            scaler.scale = scaler.scale * 0 + VALUES[kind]

    stage.before_forward.append(change)
    sight = stage.sight(where, SHARED, "loss_scale", kind)
    return replace(sight, last=stage.last_place() if where.lasting else None)


SHARED_FAULTS = (
    Fault(observations, "input"),
    Fault(given_state, "input"),
    Fault(read_advantages, "advantage"),
    Fault(read_returns, "value"),
    Fault(rollout_observations, "rollout", times="lasting"),
    Fault(rollout_rewards, "rollout", times="lasting"),
    Fault(rollout_state, "rollout", times="lasting"),
    Fault(advantages, "rollout", times="lasting"),
    Fault(returns, "rollout", times="lasting"),
    Fault(left_state, "shown"),
    Fault(trunk, "trunk", prepares=True),
    Fault(features, "input", prepares=True),
    Fault(value, "value"),
    Fault(exploding_value_loss, "term"),
    Fault(exploding_joint_ratio, "joint"),
    Fault(loss_term, "term"),
    Fault(loss_alone, "term"),
    Fault(exploding_loss, "term"),
    Fault(loss_gradient, "loss derivative"),
    Fault(joint_gradient, "joint derivative"),
    Fault(value_gradient, "value derivative"),
    Fault(shared_gradient, "weight derivative"),
    Fault(loss_scale, "scale"),
)

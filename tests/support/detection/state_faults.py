"""Faults of parameters and of the optimizer's state, for the detection campaign.

Inside an update they come and go like any other fault. State that was broken before the update is
always lasting: both passes start from it.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from detection.faults import Fault
from detection.shared_faults import shared_parameter
from detection.stage import ANY, GIVEN, VALUES, Sight, Stage, Where
from esper.leyline.telemetry import SHARED

#: Parameters that an infinite value saturates and leaves everything after it finite.
SATURATING = ("lstm.bias_ih_l0", "lstm.bias_hh_l0", "feature_norm.bias")
MOMENTS = ("exp_avg", "exp_avg_sq")

#: Bad values of Adam's step, and the kinds that they are reported as.
BAD_STEPS = ((float("nan"), "nan"), (float("inf"), "+inf"), (-1.0, "nan"), (-3.0, "nan"))


def _place_in(stage: Stage, where: Where, of_head: bool) -> tuple[nn.Parameter, int, str]:
    """Return a parameter, a finite place in it when flattened, and the name of its group."""
    if not of_head:
        parameter = shared_parameter(stage)
        finite = parameter.detach().view(-1).isfinite().nonzero().flatten().tolist()
        return parameter, stage.random.choice(finite), SHARED
    row, name = stage.choice(where.head), stage.head_name(where)
    if stage.random.random() < 0.5:
        return stage.policy.heads.bias, row, name
    width = stage.policy.heads.weight.shape[1]
    place = row * width + stage.random.randrange(width)
    return stage.policy.heads.weight, place, name


def _broken_by_step(stage: Stage, where: Where, of_head: bool) -> Sight:
    parameter, place, group = _place_in(stage, where, of_head)
    kind = stage.kind()

    def change(_result: Any) -> None:
        if stage.fires(where):
            parameter.data.view(-1)[place] = VALUES[kind]

    stage.wrap(stage.agent.optimizer, "step", change)
    part = stage.names[id(parameter)]
    last = stage.place(where.index) if where.lasting else None
    return stage.sight(where, group, "parameters", kind, part=part, last=last)


def head_parameters(stage: Stage, where: Where) -> Sight:
    """A weight of a head, broken by a step."""
    return _broken_by_step(stage, where, of_head=True)


def shared_parameters(stage: Stage, where: Where) -> Sight:
    """A weight of the trunk or the critic, broken by a step."""
    return _broken_by_step(stage, where, of_head=False)


def _flipped(stage: Stage, where: Where, of_head: bool) -> Sight | None:
    if where.index == 0:
        return None  # before the first minibatch there is no step that it could be blamed on
    parameter, place, group = _place_in(stage, where, of_head)
    kind = stage.kind()

    def change(_batch: Any) -> None:
        if stage.fires(where):
            parameter.data.view(-1)[place] = VALUES[kind]

    stage.before_forward.append(change)
    at = (stage.at(where.index - 1), stage.at(where.index))
    part = stage.names[id(parameter)]
    return replace(stage.sight(where, group, "parameters", kind, part=part, last=None), at=at)


def head_flip(stage: Stage, where: Where) -> Sight | None:
    """A weight of a head, flipped between two steps."""
    return _flipped(stage, where, of_head=True)


def shared_flip(stage: Stage, where: Where) -> Sight | None:
    """A weight of the trunk or the critic, flipped between two steps."""
    return _flipped(stage, where, of_head=False)


def _moment_of(stage: Stage, parameter: nn.Parameter, name: str) -> Tensor:
    """Return the flat view of what Adam keeps of a parameter."""
    return stage.agent.state.moments_of(parameter)[name].view(-1)


def _bad_moment(stage: Stage) -> tuple[str, float, str | None]:
    """Draw a moment's name, a bad value for it, and the kind that it is reported as.

    -Inf in a second moment is both negative and infinite: either kind is right.
    """
    name, kind = stage.random.choice(MOMENTS), stage.kind()
    if name == "exp_avg_sq" and stage.random.random() < 0.4:
        return name, stage.random.choice((-1.0, -1e-3)), "nan"  # finite, and it has no root
    return name, VALUES[kind], None if (name, kind) == ("exp_avg_sq", "-inf") else kind


def _broken_moment(stage: Stage, where: Where, of_head: bool) -> Sight:
    parameter, place, group = _place_in(stage, where, of_head)
    name, poison, kind = _bad_moment(stage)

    def change(_batch: Any) -> None:
        if stage.fires(where):
            _moment_of(stage, parameter, name)[place] = poison

    stage.before_forward.append(change)
    last = stage.last_place() if where.lasting else None
    if not where.lasting and kind in ("+inf", "-inf"):
        kind = None  # a pass of which only figures are known steps with it: inf - inf is NaN
    return stage.sight(where, group, "moments", kind, part=name, last=last)


def head_moment(stage: Stage, where: Where) -> Sight:
    """A moment of a weight of a head."""
    return _broken_moment(stage, where, of_head=True)


def shared_moment(stage: Stage, where: Where) -> Sight:
    """A moment of a weight of the trunk or the critic."""
    return _broken_moment(stage, where, of_head=False)


def adam_step(stage: Stage, where: Where) -> Sight:
    """The clock of Adam."""
    poison, kind = stage.random.choice(BAD_STEPS)

    def change(_batch: Any) -> None:
        if stage.fires(where):
            _clock(stage).fill_(poison)

    stage.before_forward.append(change)
    last = stage.last_place() if where.lasting else None
    return stage.sight(where, SHARED, "moments", kind, part="step counter", last=last)


def _clock(stage: Stage) -> Tensor:
    clock: Tensor = stage.agent.optimizer.state[stage.agent.parameters.flat]["step"]
    return clock


STATE_FAULTS = (
    Fault(head_parameters, "step"),
    Fault(shared_parameters, "step"),
    Fault(head_flip, "flip"),
    Fault(shared_flip, "flip"),
    Fault(head_moment, "moment", needs_moments=True),
    Fault(shared_moment, "moment", needs_moments=True),
    Fault(adam_step, "moment", needs_moments=True),
)

# State that was broken before the update began.


def _given(group: str, quantity: str, kind: str | None, part: str) -> Sight:
    return Sight(group, quantity, kind, (GIVEN,), host=None, step=None, part=part)


@torch.no_grad()
def _given_parameter(stage: Stage, where: Where, of_head: bool) -> Sight:
    parameter, place, group = _place_in(stage, where, of_head)
    kind = stage.kind()
    parameter.data.view(-1)[place] = VALUES[kind]
    sight = _given(group, "parameters", kind, stage.names[id(parameter)])
    if parameter is stage.policy.heads.bias and kind == "-inf":
        # So a policy forbids a choice, which is legal where the mask always forbids it, too.
        return replace(sight, required=bool(stage.rollout.masks[..., place].any()))
    return sight


def given_head_parameter(stage: Stage, where: Where) -> Sight:
    """A weight of a head, broken before the update."""
    return _given_parameter(stage, where, of_head=True)


def given_shared_parameter(stage: Stage, where: Where) -> Sight:
    """A weight of the trunk or the critic, broken before the update."""
    return _given_parameter(stage, where, of_head=False)


def given_saturating_parameter(stage: Stage, _where: Where) -> Sight:
    """An infinite bias that saturates, so that nothing after it is infinite."""
    name = stage.random.choice(SATURATING)
    kind = stage.random.choice(("+inf", "-inf"))
    parameter = dict(stage.policy.named_parameters())[name]
    finite = parameter.detach().isfinite().nonzero().flatten().tolist()
    parameter.data[stage.random.choice(finite)] = VALUES[kind]
    return _given(SHARED, "parameters", kind, name)


def _given_moment(stage: Stage, where: Where, of_head: bool) -> Sight:
    parameter, place, group = _place_in(stage, where, of_head)
    name, poison, kind = _bad_moment(stage)
    _moment_of(stage, parameter, name)[place] = poison
    return _given(group, "moments", kind, name)


def given_head_moment(stage: Stage, where: Where) -> Sight:
    """A moment of a weight of a head, broken before the update."""
    return _given_moment(stage, where, of_head=True)


def given_shared_moment(stage: Stage, where: Where) -> Sight:
    """A moment of a weight of the trunk or the critic, broken before the update."""
    return _given_moment(stage, where, of_head=False)


def given_step(stage: Stage, _where: Where) -> Sight:
    """The clock of Adam, broken before the update."""
    poison, kind = stage.random.choice(BAD_STEPS)
    _clock(stage).fill_(poison)
    return _given(SHARED, "moments", kind, "step counter")


def given_loss_scale(stage: Stage, _where: Where) -> Sight | None:
    """The loss scale, broken before the update."""
    if stage.config.amp != "fp16":
        return None
    kind = stage.kind()
    stage.agent.loss_scale.scale = stage.agent.loss_scale.scale * 0 + VALUES[kind]
    return replace(_given(SHARED, "loss_scale", kind, ""), host=ANY, step=ANY)


GIVEN_FAULTS = (
    Fault(given_head_parameter, "given", times="lasting"),
    Fault(given_shared_parameter, "given", times="lasting"),
    Fault(given_saturating_parameter, "shown", times="lasting"),
    Fault(given_head_moment, "moment", times="lasting", needs_moments=True),
    Fault(given_shared_moment, "moment", times="lasting", needs_moments=True),
    Fault(given_step, "moment", times="lasting", needs_moments=True),
    Fault(given_loss_scale, "scale", times="lasting"),
)

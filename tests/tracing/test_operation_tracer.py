"""The tracer and the search for an origin, on small computations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.leyline.telemetry import SHARED, NonfiniteSighting
from esper.tracing.causes import likely_cause
from esper.tracing.operations import Operation, Poison
from esper.tracing.origin import find_origin, origin_in_poison
from esper.tracing.tracer import OperationTracer


def traced(
    compute: Callable[[Tensor], tuple[Tensor, ...]], inputs: dict[str, Tensor], **settings: Any
) -> tuple[OperationTracer, tuple[Tensor, ...]]:
    """Return the tracer and the results of a computation on the first of some inputs."""
    with OperationTracer(nn.Identity(), "model", inputs, **settings) as tracer:
        results = compute(next(iter(inputs.values())))
    return tracer, results


def given(quantity: str, part: str) -> NonfiniteSighting:
    """Return the sighting of a shared tensor that was wrong before the update."""
    where = {"epoch": 0, "minibatch": 0, "phase": "given", "part": part}
    return NonfiniteSighting(head=SHARED, quantity=quantity, kind="nan", count=1, **where)


def only(operations: tuple[Operation, ...]) -> Operation:
    (operation,) = operations
    return operation


@pytest.mark.parametrize("is_same_place", [True, False])
def test_a_displayed_figure_only_gives_way_to_a_fault_at_its_place(is_same_place: bool) -> None:
    """A display-only exponential, and one that is learnt from, at the same or another host."""

    def compute(log_ratios: Tensor) -> tuple[Tensor, ...]:
        shown = log_ratios.exp()
        joint = log_ratios.sum(-1) if is_same_place else log_ratios.sum(-1).flip(1)
        return shown, joint.exp().mean()

    log_ratios = torch.zeros(2, 3, 4)
    log_ratios[1, 0, 2] = 100.0
    tracer, (shown, loss) = traced(compute, {"log_ratios": log_ratios})
    origin = find_origin(tracer.makers(shown), to_loss=tracer.makers(loss))
    assert origin is not None
    expected = "joint.exp().mean()" if is_same_place else "shown = log_ratios.exp()"
    assert expected in origin.operation.place.code
    assert origin.reached == ("the loss" if is_same_place else "")


def test_an_infinity_that_breaks_nothing_is_named_with_its_first_user() -> None:
    """An infinite bias that saturates: no operation has a result that is not finite."""
    bias = torch.tensor([0.0, torch.inf])
    inputs = {"weight lstm.bias_ih_l0": bias, "weight lstm.bias_hh_l0": bias.clone()}
    sighting = given("parameters", "lstm.bias_hh_l0")

    def compute(given: Tensor) -> tuple[Tensor, ...]:
        other = inputs["weight lstm.bias_hh_l0"]
        return given.sigmoid(), other.tanh()

    tracer, (gate, _) = traced(compute, inputs)
    assert tracer.makers(gate) == ()
    origin = origin_in_poison(sighting, tracer.poisons, tracer.taker)
    assert origin is not None
    assert origin.operation.base == "tanh"
    assert origin.cause == "poisoned weight: lstm.bias_hh_l0[1] is +inf"


def test_a_value_that_must_not_be_negative_is_poison() -> None:
    inputs = {"optimizer step": torch.tensor(-1.0), "reward": torch.tensor(-1.0)}
    tracer, _ = traced(lambda step: (step + 1,), inputs, never_negative=["optimizer step"])
    assert tracer.poisons == (Poison("optimizer step", (), "negative"),)
    origin = origin_in_poison(given("moments", "step"), tracer.poisons, tracer.taker)
    assert origin is not None
    assert origin.cause == "corrupted optimizer state: step is negative"


OVERFLOW = "overflow in {}: values reach {}"
OPERANDS: tuple[tuple[Callable[[Tensor], Tensor], str], ...] = (
    (lambda x: x * 3e38, OVERFLOW.format("mul", "other = 3e+38 and 300 (rewards)")),
    (
        lambda x: (x * 1e19) * 10**18,
        OVERFLOW.format("mul", "3e+21 (self) and other = 1e+18"),
    ),
    (
        lambda x: x * torch.tensor(3e38),
        OVERFLOW.format("mul", "3e+38 (other) and 300 (rewards)"),
    ),
    (
        lambda x: x.add(x * 1, alpha=3e38),
        OVERFLOW.format("add", "alpha = 3e+38 and 300 (other)"),
    ),
    (
        lambda x: x.new_zeros(2).sub(x, alpha=3e38),
        OVERFLOW.format("sub", "alpha = 3e+38 and 300 (rewards)"),
    ),
    (
        lambda x: torch.addcmul(x, x, x, value=3e37),
        OVERFLOW.format("addcmul", "value = 3e+37, 300 (rewards) and 300 (rewards)"),
    ),
    (
        lambda x: torch._foreach_add([x], [x], alpha=3e38)[0],
        OVERFLOW.format("add", "alpha = 3e+38 and 300 (rewards)"),
    ),
    (
        lambda x: torch.lerp(x, -x, 1e37),
        OVERFLOW.format("lerp", "weight = 1e+37 and -300 (end)"),
    ),
    (lambda x: x.pow(20), OVERFLOW.format("pow", "300 (rewards) and exponent = 20")),
    (lambda x: x / 0, "division by 0: the divisor is other = 0"),
    (
        lambda x: x.clone() * 7e37,
        OVERFLOW.format("mul", "other = 7e+37 (value_coefficient) and 300 (rewards)"),
    ),
)


@pytest.mark.parametrize(("compute", "words"), OPERANDS)
def test_every_operand_is_named(compute: Callable[[Tensor], Tensor], words: str) -> None:
    numbers = {"setting value_coefficient": 7e37, "setting clip_range": 0.2}
    inputs = {"rewards": torch.tensor([1.0, 300.0])}
    tracer, (result,) = traced(lambda x: (compute(x),), inputs, numbers=numbers)
    assert likely_cause(only(tracer.makers(result))) == words


def test_detection_itself_is_not_traced() -> None:
    """An observer's operations neither use a poison nor make anything."""
    inputs = {"loss scale": torch.tensor(torch.nan)}
    tracer, (result,) = traced(lambda scale: (scale * 2,), inputs, observers=[__file__])
    assert tracer.makers(result) == ()
    assert tracer.taker(tracer.poisons[0]) is None

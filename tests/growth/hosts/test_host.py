"""The host: its size, and what shapes it can be built for."""

from types import ModuleType

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from esper.growth.hosts.host import HostShape, HostShapeError
from esper.growth.hosts.training_cost import host_multiply_adds
from esper.growth.tasks.loading import load_task


def test_default_host_of_mnist1d_has_538_parameters() -> None:
    task = load_task("mnist1d")
    shape = HostShape(task.input_shape, task.classes, task.channels)
    assert [block.positions for block in shape.blocks] == [(19,), (10,), (5,)]
    assert shape.layout.size == 538


@pytest.mark.parametrize("input_shape", [(1, 40), (3, 17), (1, 8, 8), (2, 9, 6), (7,)])
@pytest.mark.parametrize("channels", [4, 8, 11])
def test_parameters_are_those_of_ordinary_layers(
    ordinary: ModuleType, input_shape: tuple[int, ...], channels: int
) -> None:
    shape = HostShape(input_shape, 10, channels)
    theirs = ordinary.Host(input_shape, 10, channels)
    assert [t.shape for t in shape.layout.tensors] == [tuple(p.shape) for p in theirs.parameters()]


@pytest.mark.parametrize(
    ("input_shape", "channels", "complaint"),
    [
        ((1, 4, 4, 4), 8, r"must be \(features,\), \(channels, length\)"),
        ((), 8, "is empty"),
        ((0,), 8, "is empty"),
        ((1, 2), 8, "too small"),
        ((1, 40), 0, "at least 1 channel"),
    ],
)
def test_impossible_hosts_are_refused(
    input_shape: tuple[int, ...], channels: int, complaint: str
) -> None:
    with pytest.raises(HostShapeError, match=complaint):
        HostShape(input_shape, 10, channels)


def test_symbols_are_read_by_a_transformer(ordinary: ModuleType) -> None:
    shape = HostShape((12,), 10, 8, symbols=6)
    theirs = ordinary.Transformer(12, 10, 8, 6)
    assert (shape.kind, shape.axes) == ("transformer", 1)
    assert [t.shape for t in shape.layout.tensors] == [tuple(p.shape) for p in theirs.parameters()]
    with pytest.raises(HostShapeError, match=r"of symbols, \(length,\)"):
        HostShape((1, 12), 10, 8, symbols=6)


def test_multiply_adds_of_a_block_are_those_of_ordinary_layers(ordinary: ModuleType) -> None:
    for shape, theirs, inputs in (
        (HostShape((5,), 3, 4), ordinary.Host((5,), 3, 4), torch.zeros(1, 5)),
        (HostShape((2, 30), 3, 4), ordinary.Host((2, 30), 3, 4), torch.zeros(1, 2, 30)),
        (
            HostShape((12,), 3, 4, symbols=6),
            ordinary.Transformer(12, 3, 4, 6),
            torch.zeros(1, 12, dtype=torch.int64),
        ),
    ):
        with FlopCounterMode(display=False) as counter:
            ordinary.Network(theirs).forward(inputs)
        assert sum(host_multiply_adds(shape)) == counter.get_total_flops() / 2

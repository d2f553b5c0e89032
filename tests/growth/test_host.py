"""The host: its size, and what shapes it can be built for."""

from types import ModuleType

import pytest

from esper.growth.host import HostShape, HostShapeError
from esper.growth.tasks import load_task


def test_default_host_of_mnist1d_has_538_parameters() -> None:
    task = load_task("mnist1d")
    shape = HostShape(task.input_shape, task.classes, task.channels)
    assert [block.positions for block in shape.blocks] == [(19,), (10,), (5,)]
    assert shape.layout.size == 538


@pytest.mark.parametrize("input_shape", [(1, 40), (3, 17), (1, 8, 8), (2, 9, 6)])
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
        ((1,), 8, r"must be \(channels, length\)"),
        ((1, 4, 4, 4), 8, r"must be \(channels, length\)"),
        ((1, 2), 8, "too small"),
        ((1, 40), 0, "at least 1 channel"),
    ],
)
def test_impossible_hosts_are_refused(
    input_shape: tuple[int, ...], channels: int, complaint: str
) -> None:
    with pytest.raises(HostShapeError, match=complaint):
        HostShape(input_shape, 10, channels)

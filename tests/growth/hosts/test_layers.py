"""The batch-last layers against torch's own."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from esper.growth.kernel.layers import affine_map, layer_norm, windows

GEOMETRIES = [(5, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 0), (2, 3, 0), (3, 2, 2)]


@pytest.fixture
def features() -> Callable[..., torch.Tensor]:
    def make(*shape: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return make


@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("positions", [(9,), (6, 7)])
def test_windows_and_a_product_are_a_convolution(
    features: Callable[..., torch.Tensor],
    positions: tuple[int, ...],
    kernel: int,
    stride: int,
    padding: int,
) -> None:
    axes = len(positions)
    inputs = features(2, 3, *positions, 4).requires_grad_()  # [R, C, *P, B]
    weight = features(2, 5, 3, *(kernel,) * axes).requires_grad_()
    bias = features(2, 5)
    ours = affine_map(windows(inputs, kernel, stride, padding), weight, bias)

    convolve = F.conv1d if axes == 1 else F.conv2d
    rows = [
        convolve(inputs[row].movedim(-1, 0), weight[row], bias[row], stride, padding)
        for row in range(2)
    ]
    theirs = torch.stack([row.movedim(0, -1).flatten(1) for row in rows])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    ours_back = torch.autograd.grad(ours.square().sum(), (inputs, weight))
    theirs_back = torch.autograd.grad(theirs.square().sum(), (inputs, weight))
    torch.testing.assert_close(ours_back, theirs_back, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("positions", [(1,), (1, 2)])
def test_windows_of_a_single_position_are_mostly_padding(
    features: Callable[..., torch.Tensor], positions: tuple[int, ...]
) -> None:
    inputs = features(2, 3, *positions, 4).requires_grad_()
    assert gradcheck(lambda x: windows(x, 3, 1, 1), inputs)
    assert windows(inputs, 3, 1, 1).count_nonzero() < windows(inputs, 3, 1, 1).numel()


def test_shared_columns_give_each_row_what_its_own_copy_would(
    features: Callable[..., torch.Tensor],
) -> None:
    columns, weight, bias = features(6, 10), features(3, 4, 6), features(3, 4)
    shared = affine_map(columns, weight, bias)
    torch.testing.assert_close(shared, affine_map(columns.expand(3, -1, -1), weight, bias))


@pytest.mark.parametrize("positions", [(5,), (2, 3)])
def test_layer_norm_is_torch_layer_norm_over_channels_and_positions(
    features: Callable[..., torch.Tensor], positions: tuple[int, ...]
) -> None:
    inputs = (3 * features(2, 4, *positions, 6) + 1).requires_grad_()
    ours = layer_norm(inputs)
    moved = inputs.movedim(-1, 1)  # [R, B, C, *P]
    theirs = F.layer_norm(moved, moved.shape[2:]).movedim(1, -1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert gradcheck(layer_norm, inputs)


def test_layer_norm_of_silence_is_silence() -> None:
    silent = torch.zeros(2, 4, 5, 3, requires_grad=True)
    normal = layer_norm(silent)
    (gradient,) = torch.autograd.grad(normal.sum(), silent)
    assert normal.eq(0).all()
    assert gradient.isfinite().all()

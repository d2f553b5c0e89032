"""Operations of a recording from a stranger stay inside of their tensors."""

import pytest
import torch

from esper.rerunning.allowed_operations import ArgumentError, check_arguments, is_allowed

ATEN = torch.ops.aten
IMAGE = torch.rand(1, 1, 4, 4)
POOLED = torch.rand(1, 1, 2, 2)
ROWS = torch.rand(3, 4)
LOSS = torch.tensor(1.0)


def checked(function, *args, **kwargs):
    """Check arguments as a replay does."""
    check_arguments(function._schema.name.partition("::")[2], function, args, kwargs)


def pool_backward(index):
    indices = torch.full((1, 1, 2, 2), index)
    return POOLED, IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], False, indices


def nll_backward(target, weight=None):
    return LOSS, ROWS, torch.tensor(target), weight, 1, -100, LOSS


def layer_norm_backward(rows):
    mean = torch.rand(rows, 1)
    return ROWS, ROWS, [4], mean, mean, None, None, [True, False, False]


def batch_norm_backward(channels):
    saved = torch.rand(channels)
    return ROWS, ROWS, None, None, None, saved, saved, True, 1e-5, [True, False, False]


def group_norm(groups, channels=4):
    return ROWS.view(3, 4, 1), None, None, 3, channels, 1, groups, 1e-5


def lstm(size, batch=2):
    """One step of an LSTM with 3 features and 4 units; weights always fit those."""
    weights = [torch.rand(16, 3), torch.rand(16, 4), torch.rand(16), torch.rand(16)]
    state = torch.rand(batch, 4)
    settings = (False, [], 2, size, 1, True, False, False, True)
    return torch.rand(5, 2, 3), *weights, state, state, *settings


@pytest.mark.parametrize(
    ("function", "arguments", "right", "wrong"),
    [
        (ATEN.max_pool2d_with_indices_backward.default, pool_backward, [0, 15], [16, -1, 1 << 40]),
        (ATEN.nll_loss_backward.default, nll_backward, [[0, 3, -100]], [[0, 4, 1], [-1, 0, 0]]),
        (ATEN.native_layer_norm_backward.default, layer_norm_backward, [3], [1, 2, 4]),
        (ATEN.native_batch_norm_backward.default, batch_norm_backward, [4, 0], [3, 5]),
        (ATEN.native_group_norm.default, group_norm, [1, 2, 4], [0, 3]),
        (ATEN.mkldnn_rnn_layer.default, lstm, [4], [3, 5, 1 << 40]),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_an_index_or_a_size_that_does_not_fit_is_refused(function, arguments, right, wrong):
    for value in right:
        checked(function, *arguments(value))
    for value in wrong:
        with pytest.raises(ArgumentError, match=r"does not fit|unfit"):
            checked(function, *arguments(value))


def test_what_is_right_runs():
    """The checks accept what the kernels take."""
    for function, arguments in (
        (ATEN.max_pool2d_with_indices_backward.default, pool_backward(3)),
        (ATEN.nll_loss_backward.default, nll_backward([0, 3, 1])),
        (ATEN.native_layer_norm_backward.default, layer_norm_backward(3)),
        (ATEN.native_group_norm.default, group_norm(2)),
        (ATEN.mkldnn_rnn_layer.default, lstm(4)),
    ):
        checked(function, *arguments)
        function(*arguments)


@pytest.mark.parametrize(
    "name",
    ["_reshape_alias", "max_unpool2d", "_unsafe_index", "_unsafe_masked_index", "set_", "resize_",
     "_index_put_impl_", "fractional_max_pool2d_backward", "_embedding_bag_backward",
     "adaptive_max_pool2d_backward", "from_file", "_sparse_coo_tensor_unsafe", "bernoulli"],
)  # fmt: skip
def test_what_trusts_its_indices_is_not_allowed(name):
    packet = getattr(ATEN, name)
    for overload in packet.overloads():
        assert not is_allowed(name, getattr(packet, overload))


def test_arguments_that_are_missing_are_refused():
    with pytest.raises(ArgumentError, match="unfit"):
        checked(ATEN.nll_loss_backward.default, LOSS)

"""Which operations of PyTorch a recording may name, and what their arguments must fit.

A recording may come from a stranger. Kernels of PyTorch check the shapes and indices that users can
get wrong, but not always those that only autograd passes on: a false index there reads or writes
outside of a tensor. So only these operations are repeated, and where a kernel trusts an index or a
size, it is checked here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

#: Operations on single elements (`torch.Tag.pointwise`) are allowed, too.
_FACTORIES: Final = (
    "arange empty empty_like empty_permuted empty_strided eye fill full full_like linspace "
    "new_empty "
    "new_empty_strided new_full new_ones new_zeros ones ones_like scalar_tensor zero zeros "
    "zeros_like"
)
_SHAPES: Final = (
    "alias as_strided cat chunk clone constant_pad_nd contiguous copy diagonal diag_embed detach "
    "expand flip "
    "lift_fresh movedim narrow permute reflection_pad1d reflection_pad2d repeat replication_pad2d "
    "reshape roll select select_backward select_scatter slice slice_backward slice_scatter split "
    "split_with_sizes squeeze stack swapaxes t transpose tril triu unbind unfold unsqueeze view "
    "_to_copy _unsafe_view diagonal_backward"
)
_INDEXING: Final = (
    "embedding embedding_dense_backward gather index index_add index_copy index_fill index_put "
    "index_select masked_fill masked_scatter masked_select nonzero scatter scatter_add "
    "scatter_reduce sort take_along_dim topk where"
)
_REDUCTIONS: Final = (
    "all amax amin aminmax any argmax argmin cummax cumprod cumsum dot linalg_vector_norm "
    "logcumsumexp logsumexp max mean median min nansum norm prod std std_mean sum var var_mean "
    "_foreach_norm _is_all_true _local_scalar_dense"
)
_LAYERS: Final = (
    "addbmm addmm addmv addr avg_pool1d avg_pool2d avg_pool2d_backward baddbmm bmm convolution "
    "convolution_backward linear matmul max_pool2d_with_indices mkldnn_rnn_layer "
    "mkldnn_rnn_layer_backward mm mv native_batch_norm native_batch_norm_backward native_dropout "
    "native_dropout_backward native_group_norm native_group_norm_backward native_layer_norm "
    "native_layer_norm_backward upsample_bilinear2d upsample_bilinear2d_backward "
    "upsample_nearest2d "
    "upsample_nearest2d_backward max_pool2d_with_indices_backward _adaptive_avg_pool2d "
    "_adaptive_avg_pool2d_backward _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "_scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention_for_cpu_backward"
)
_ACTIVATIONS_AND_LOSSES: Final = (
    "binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits "
    "elu_backward gelu_backward glu glu_backward hardsigmoid_backward hardswish_backward "
    "hardtanh_backward huber_loss huber_loss_backward leaky_relu_backward log_sigmoid_backward "
    "log_sigmoid_forward mish_backward mse_loss mse_loss_backward nll_loss_backward "
    "nll_loss_forward nll_loss2d_backward nll_loss2d_forward sigmoid_backward silu_backward "
    "smooth_l1_loss smooth_l1_loss_backward softplus_backward tanh_backward threshold_backward "
    "_log_softmax _log_softmax_backward_data _safe_softmax _softmax _softmax_backward_data "
    "_prelu_kernel _prelu_kernel_backward"
)
_LINEAR_ALGEBRA: Final = (
    "cholesky_inverse cholesky_solve linalg_cholesky_ex linalg_eigh linalg_householder_product "
    "linalg_inv_ex linalg_lu_factor_ex linalg_qr linalg_solve_triangular triangular_solve "
    "_cdist_forward _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex "
    "_linalg_svd _fft_c2c _fft_c2r _fft_r2c"
)
_FOREACH: Final = (
    "_foreach_add _foreach_addcdiv _foreach_addcmul _foreach_copy _foreach_div _foreach_lerp "
    "_foreach_mul _foreach_neg _foreach_sqrt _foreach_sub _foreach_zero"
)
ALLOWED: Final = frozenset(
    name
    for names in (
        *(_FACTORIES, _SHAPES, _INDEXING, _REDUCTIONS, _LAYERS, _ACTIVATIONS_AND_LOSSES),
        *(_LINEAR_ALGEBRA, _FOREACH),
    )
    for name in names.split()
)


class ArgumentError(ValueError):
    """An argument would make a kernel leave its tensors; the message says which."""


def is_allowed(name: str, function: Any) -> bool:
    """Return whether an operation may be repeated.

    Args:
        name: its name without overload; `name_` is the same in place.
        function: its overload.
    """
    return name.removesuffix("_") in ALLOWED or torch.Tag.pointwise in function.tags


def check_arguments(
    name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Check what the kernel of an operation trusts.

    Args:
        name: its name without overload.
        function: its overload.
        args, kwargs: its arguments.

    Raises:
        ArgumentError: an index is outside of its tensor, or sizes do not fit one another.
    """
    check = _CHECKS.get(name)
    if check is None:
        return
    names = [argument.name for argument in function._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    try:
        is_right = check(given)
    except (KeyError, AttributeError, TypeError, IndexError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} has unfit arguments") from error
    if not is_right:
        raise ArgumentError(f"{name} has an index or a size that does not fit")


def _are_within(indices: Tensor, size: int, but: int | None = None) -> bool:
    """Return whether indices are 0 to size - 1, or the one that is ignored."""
    is_right = (indices >= 0) & (indices < size)
    if but is not None:
        is_right |= indices == but
    return bool(is_right.all())


def _nll_loss(given: Mapping[str, Any]) -> bool:
    classes = given["self"].shape[-1 if given["self"].dim() == 1 else 1]
    weight = given.get("weight")
    is_weighted_right = weight is None or weight.numel() == classes
    return is_weighted_right and _are_within(given["target"], classes, given["ignore_index"])


def _max_pool_backward(given: Mapping[str, Any]) -> bool:
    image = given["self"]
    is_same = given["indices"].shape == given["grad_output"].shape
    return is_same and _are_within(given["indices"], image.shape[-1] * image.shape[-2])


def _layer_norm_backward(given: Mapping[str, Any]) -> bool:
    whole, normalized = given["input"], math.prod(given["normalized_shape"])
    rows = whole.numel() // normalized if normalized else 0
    weights = [given.get(name) for name in ("weight", "bias")]
    return (
        rows * normalized == whole.numel()
        and given["grad_out"].shape == whole.shape
        and given["mean"].numel() == given["rstd"].numel() == rows
        and all(one is None or one.numel() == normalized for one in weights)
    )


def _group_norm(given: Mapping[str, Any]) -> bool:
    whole, batch, channels, size = given["input"], given["N"], given["C"], given["HxW"]
    groups, weights = given["group"], [given.get(name) for name in ("weight", "bias")]
    return (
        min(batch, channels, size) >= 0
        and groups > 0
        and whole.numel() == batch * channels * size
        and channels % groups == 0
        and all(one is None or one.numel() == channels for one in weights)
        and all(given[n].numel() == batch * groups for n in ("mean", "rstd") if n in given)
        and ("grad_out" not in given or given["grad_out"].shape == whole.shape)
    )


def _batch_norm(given: Mapping[str, Any]) -> bool:
    whole = given["input"]
    by_channel = ("weight", "running_mean", "running_var", "save_mean", "save_invstd")
    parts = [given.get(name) for name in by_channel]
    is_same = "grad_out" not in given or given["grad_out"].shape == whole.shape
    return is_same and all(one is None or one.numel() in (0, whole.shape[1]) for one in parts)


def _recurrent(given: Mapping[str, Any]) -> bool:
    """Weights, states and outputs of one layer of an LSTM (mode 2), a GRU (3) or an RNN."""
    mode, size = given["mode"], given["hidden_size"]
    gates = {2: 4, 3: 3}.get(mode, 1)
    steps, batch, features = given["input"].shape
    weights = [one for name, one in given.items() if name.startswith("weight")]
    biases = weights[2:] if given["has_biases"] else []
    gate_biases = gates + (mode == 3)
    states = [
        given[name] for name in ("hx_", "cx_", "cx_tmp", "hx_tmp", "hy_", "cy_") if name in given
    ]
    states += [one for name in ("grad_hy", "grad_cy") if (one := given.get(name)) is not None]
    outputs = [one for name in ("output", "grad_output") if (one := given.get(name)) is not None]
    return (
        not given["bidirectional"]
        and weights[0].numel() == gates * size * features
        and weights[1].numel() == gates * size * size
        and all(one.numel() in (gates * size, gate_biases * size) for one in biases)
        and all(one.numel() == batch * size for one in states)
        and all(one.numel() == steps * batch * size for one in outputs)
        and not list(given.get("batch_sizes") or [])
    )


def _attention_backward(given: Mapping[str, Any]) -> bool:
    query, key, value = given["query"], given["key"], given["value"]
    return (
        given["grad_out"].shape == given["out"].shape == query.shape
        and key.shape == value.shape
        and key.shape[:2] == query.shape[:2]
        and given["logsumexp"].numel() == math.prod(query.shape[:3])
    )


def _adaptive_pool_backward(given: Mapping[str, Any]) -> bool:
    same: bool = given["grad_output"].shape[:-2] == given["self"].shape[:-2]
    return same and given["grad_output"].numel() > 0


_BATCH_NORMS: Final = (
    *("native_batch_norm", "native_batch_norm_backward", "_native_batch_norm_legit"),
    "_native_batch_norm_legit_no_training",
)
_CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any]], bool]]] = {
    "nll_loss_forward": _nll_loss,
    "nll_loss_backward": _nll_loss,
    "nll_loss2d_forward": _nll_loss,
    "nll_loss2d_backward": _nll_loss,
    "max_pool2d_with_indices_backward": _max_pool_backward,
    "native_layer_norm_backward": _layer_norm_backward,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm,
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
    "_adaptive_avg_pool2d_backward": _adaptive_pool_backward,
    "mkldnn_rnn_layer": _recurrent,
    "mkldnn_rnn_layer_backward": _recurrent,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}

"""Allowlist of the PyTorch operations that are recorded and repeated.

An operation is listed if it cannot read or write outside of its tensors for any arguments: its CPU
kernel checks them, or `esper.rerunning.argument_checks` does. Not listed are private kernels,
kernels for sparse and quantized tensors, and kernels that do not check offsets, strides or pivots.
"""

from typing import Any, Final

import torch

_POINTWISE: Final = """
    abs acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp
    clamp_max clamp_min conj_physical copysign cos cosh deg2rad digamma div elu eq erf erfc erfinv
    exp exp2 expm1 fill floor floor_divide fmax fmin fmod frac ge gelu gt hardshrink hardsigmoid
    hardswish hardtanh heaviside hypot isfinite isinf isnan isneginf isposinf le leaky_relu lerp
    lgamma log log10 log1p log2 log_sigmoid_forward logaddexp logaddexp2 logical_and logical_not
    logical_or logical_xor logit lt masked_fill maximum minimum mish mul nan_to_num ne neg
    nextafter polygamma positive pow rad2deg reciprocal relu remainder round rsqrt rsub sgn sigmoid
    sign signbit silu sin sinc sinh softplus softshrink sqrt square sub tan tanh threshold trunc
    where xlogy zero _prelu_kernel
"""
_POINTWISE_DERIVATIVES: Final = """
    elu_backward gelu_backward hardshrink_backward hardsigmoid_backward hardswish_backward
    hardtanh_backward leaky_relu_backward log_sigmoid_backward logit_backward mish_backward
    native_dropout_backward sigmoid_backward silu_backward softplus_backward softshrink_backward
    tanh_backward threshold_backward _prelu_kernel_backward
"""
_REDUCTIONS: Final = """
    all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum kthvalue
    linalg_vector_norm logcumsumexp logsumexp max mean median min mode nanmedian nansum norm prod
    std std_mean sum var var_mean _is_all_true _is_any_true
"""
_MAKING: Final = """
    arange clone copy empty empty_like empty_strided eye full full_like linspace lift_fresh
    new_empty new_empty_strided new_full new_ones new_zeros ones ones_like scalar_tensor zeros
    zeros_like _to_copy
"""
_VIEWS_AND_SHAPES: Final = """
    alias as_strided cat constant_pad_nd detach diag_embed diagonal diagonal_backward
    diagonal_scatter expand flip permute repeat roll select select_backward select_scatter slice
    slice_backward slice_scatter split split_with_sizes squeeze stack t transpose tril triu unbind
    unfold unsafe_split unsqueeze view view_as_complex view_as_real _conj _neg_view _unsafe_view
    pixel_shuffle pixel_unshuffle
"""
_INDEXED: Final = """
    bincount bucketize embedding embedding_dense_backward gather index index_add index_copy
    index_fill index_put index_reduce index_select masked_scatter masked_select nonzero scatter
    scatter_add scatter_reduce searchsorted sort topk _unique2
"""
_PRODUCTS: Final = """
    addbmm addmm addmv addr baddbmm bmm convolution convolution_backward dot linalg_cholesky_ex
    linalg_eig linalg_inv_ex linalg_qr linalg_solve_triangular mm mv vdot _linalg_check_errors
    _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd
"""
_LAYERS: Final = """
    avg_pool2d avg_pool2d_backward glu glu_backward max_pool2d_with_indices
    max_pool2d_with_indices_backward mkldnn_rnn_layer mkldnn_rnn_layer_backward native_batch_norm
    native_batch_norm_backward native_group_norm native_group_norm_backward native_layer_norm
    native_layer_norm_backward upsample_bilinear2d upsample_bilinear2d_backward upsample_nearest2d
    upsample_nearest2d_backward _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _log_softmax
    _log_softmax_backward_data _safe_softmax _scaled_dot_product_flash_attention_for_cpu
    _scaled_dot_product_flash_attention_for_cpu_backward _softmax _softmax_backward_data
"""
_LOSSES: Final = """
    binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits huber_loss
    huber_loss_backward mse_loss mse_loss_backward nll_loss2d_backward nll_loss2d_forward
    nll_loss_backward nll_loss_forward smooth_l1_loss smooth_l1_loss_backward
"""
_ALL: Final = frozenset(
    (
        f"{_POINTWISE} {_POINTWISE_DERIVATIVES} {_REDUCTIONS} {_MAKING} {_VIEWS_AND_SHAPES} "
        f"{_INDEXED} {_PRODUCTS} {_LAYERS} {_LOSSES}"
    ).split()
)
#: Pointwise operations on lists of tensors, used by optimizers and clipping.
_ON_LISTS: Final = frozenset({*_POINTWISE.split(), "copy", "norm"})
_OF_LISTS: Final = "_foreach_"


def is_repeatable(function: Any) -> bool:
    """Return whether an operation is recorded and repeated.

    Args:
        function: an operation as PyTorch dispatches it, of any namespace.
    """
    if getattr(function, "namespace", "") != "aten" or torch.Tag.inplace_view in function.tags:
        return False
    if any(one.is_out for one in function._schema.arguments):
        return False  # it resizes what it writes to
    name = str(function).split(".")[1]
    name = name.removesuffix("_")  # of operations that work in place
    if name.startswith(_OF_LISTS):
        return name.removeprefix(_OF_LISTS) in _ON_LISTS
    return name in _ALL

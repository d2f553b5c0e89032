"""Checks of arguments that PyTorch's CPU kernels do not check: indices, and matching shapes.

The kernel of a backward operation expects the results of the forward operation. A recording from an
unknown source may contain anything, and the kernel could read or write outside of its tensors.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from esper.leyline.errors import EsperError

_Arguments = dict[str, Any]  # by their names in PyTorch's schema
_INTEGERS: Final = (torch.int32, torch.int64)


class WrongArgumentError(EsperError, ValueError):
    """An argument does not fit the others; the message names it, but not the operation."""


def check_arguments(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Check that an operation cannot access memory outside of its tensors.

    Args:
        function: the operation.
        args, kwargs: its arguments, on the CPU.

    Raises:
        WrongArgumentError: an argument does not fit.
    """
    schema = function._schema.arguments
    given = {one.name: one.default_value for one in schema if one.has_default_value()}
    given |= dict(zip((one.name for one in schema), args, strict=False)) | kwargs
    name = str(function).split(".")[1].removesuffix("_")
    check = _CHECKS.get(name)
    try:
        if check is not None:
            check(given)
        elif isinstance(given.get("index"), Tensor) and isinstance(given.get("dim"), int):
            size = given["self"].size(given["dim"]) if given["self"].dim() else 1
            lowest = -size if name == "index_fill" else 0
            _require_range(given["index"], lowest, size)
    except WrongArgumentError:
        raise
    except Exception as error:  # noqa: BLE001 - a missing or wrong argument fails in many ways
        first_line = str(error).partition("\n")[0]
        raise WrongArgumentError(f"its arguments do not fit: {first_line}") from None


def check_extent(tensor: Tensor) -> None:
    """Check that a view is inside its storage.

    Raises:
        WrongArgumentError: it exceeds its storage.
    """
    if not tensor.numel():
        return
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * step for size, step in steps)
    if (last + 1) * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise WrongArgumentError("a view exceeds its storage")


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise WrongArgumentError(f"its {what} does not fit")


def _require_range(index: Tensor, lowest: int, size: int, ignored: int | None = None) -> None:
    """Require indices from `lowest` (inclusive) to `size` (exclusive)."""
    _require(index.dtype in _INTEGERS, "type of index")
    used = index if ignored is None else index[index != ignored]
    if used.numel() and not lowest <= int(used.min()) <= int(used.max()) < size:
        raise WrongArgumentError("an index is out of range")


def _like(one: Tensor | None, other: Tensor, what: str) -> None:
    """Require a tensor with the same shape and dtype as another."""
    fits = one is None or (one.shape == other.shape and one.dtype == other.dtype)
    _require(fits, what)


def _per_channel(values: Tensor | None, channels: int, what: str) -> None:
    _require(values is None or tuple(values.shape) == (channels,), what)


def _meta(value: Any) -> Any:
    """Return a tensor on the device "meta", for computing shapes only."""
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta")
    return value


def _forward(name: str, *args: Any, **kwargs: Any) -> Any:
    """Return the results of a forward operation as meta tensors."""
    function = getattr(torch.ops.aten, name)
    return function(*map(_meta, args), **{key: _meta(value) for key, value in kwargs.items()})


def _embedding(given: _Arguments) -> None:
    _require_range(given["indices"], 0, given["weight"].size(0))


def _embedding_backward(given: _Arguments) -> None:
    indices, gradient = given["indices"], given["grad_output"]
    _require_range(indices, 0, given["num_weights"])
    _require(gradient.shape[:-1] == indices.shape and gradient.dim() > 0, "gradient")


def _nll(given: _Arguments) -> None:
    values, target, weight = given["self"], given["target"], given["weight"]
    _require(values.dim() in (1, 2, 4), "input")
    channels = values.size(0 if values.dim() == 1 else 1)
    expected = {1: ((), (1,)), 2: (values.shape[:1],), 4: (values.shape[:1] + values.shape[2:],)}
    _require(tuple(target.shape) in {tuple(one) for one in expected[values.dim()]}, "target")
    _require(target.dtype in (torch.int64, torch.uint8), "type of target")
    _per_channel(weight, channels, "weight")
    _require(weight is None or weight.dtype == values.dtype, "type of weight")
    _require_range(target.long(), 0, channels, given["ignore_index"])
    if "grad_output" in given:
        gradient, total = given["grad_output"], given["total_weight"]
        _require(gradient.dtype == values.dtype == total.dtype, "type of gradient")
        shape = target.shape if given["reduction"] == 0 else torch.Size()
        _require(gradient.shape == shape, "gradient")
        _require(total.numel() == 1, "total weight")


def _max_pool_backward(given: _Arguments) -> None:
    names = ("self", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
    values, indices = given["self"], given["indices"]
    expected = _forward("max_pool2d_with_indices", *(given[name] for name in names))
    _like(given["grad_output"], expected[0], "gradient")
    _like(indices, expected[1], "indices")
    _require_range(indices, 0, values.size(-1) * values.size(-2))


def _adaptive_pool_backward(given: _Arguments) -> None:
    gradient, values = given["grad_output"], given["self"]
    _require(values.dim() in (3, 4), "input")
    _like(gradient, _forward("_adaptive_avg_pool2d", values, gradient.shape[-2:]), "gradient")


def _avg_pool_backward(given: _Arguments) -> None:
    names = ("self", "kernel_size", "stride", "padding", "ceil_mode")
    options = [given[name] for name in (*names, "count_include_pad", "divisor_override")]
    _like(given["grad_output"], _forward("avg_pool2d", *options), "gradient")


def _glu_backward(given: _Arguments) -> None:
    _like(given["grad_output"], _forward("glu", given["self"], given["dim"]), "gradient")


def _softmax_backward(given: _Arguments) -> None:
    _like(given["grad_output"], given["output"], "gradient")


def _convolution_backward(given: _Arguments) -> None:
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    weight, sizes = given["weight"], given["bias_sizes"]
    channels = weight.size(1) * given["groups"] if given["transposed"] else weight.size(0)
    _require(sizes is None or list(sizes) in ([0], [channels]), "size of bias")
    _require(all(one > 0 for one in given["stride"]) and given["groups"] > 0, "stride")
    options = [given[name] for name in names]
    expected = _forward("convolution", given["input"], weight, None, *options)
    _like(given["grad_output"], expected, "gradient")


def _layer_norm_backward(given: _Arguments) -> None:
    values, shape = given["input"], list(given["normalized_shape"])
    weight, bias = given["weight"], given["bias"]
    expected = _forward("native_layer_norm", values, shape, weight, bias, 1e-5)
    _like(given["grad_out"], values, "gradient")
    for name, number in (("mean", 1), ("rstd", 2)):
        _like(given[name], expected[number], name)


def _group_norm(given: _Arguments) -> None:
    values, groups = given["input"], given["group"]
    sizes = (given["N"], given["C"], given["HxW"])
    _require(min(sizes) >= 0 and groups > 0 and sizes[1] % groups == 0, "number of groups")
    _require(values.numel() == sizes[0] * sizes[1] * sizes[2], "size")
    for name in ("weight", "bias"):
        _per_channel(given.get(name), sizes[1], name)
    if "grad_out" in given:
        _like(given["grad_out"], values, "gradient")
        for name in ("mean", "rstd"):
            _require(tuple(given[name].shape) == (sizes[0], groups), name)


def _batch_norm(given: _Arguments) -> None:
    values = given["input"]
    _require(values.dim() >= 2, "input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        _per_channel(given.get(name), values.size(1), name)
    is_training = given["training"] if "training" in given else given["train"]
    has_running = given["running_mean"] is not None and given["running_var"] is not None
    _require(is_training or has_running, "running mean")
    if "grad_out" in given:
        _like(given["grad_out"], values, "gradient")
        for name in ("save_mean", "save_invstd"):
            _require(not is_training or given[name] is not None, name)
            if is_training:
                _per_channel(given[name], values.size(1), name)


def _attention(given: _Arguments) -> None:
    parts = [given["query"], given["key"], given["value"]]
    query, key, value = parts
    _require(all(one.dim() == 4 and one.dtype == query.dtype for one in parts), "type or shape")
    _require(query.shape[:2] == key.shape[:2] and query.size(3) == key.size(3), "key")
    _require(key.shape == value.shape, "value")
    mask = given["attn_mask"]
    whole = (*query.shape[:2], query.size(2), key.size(2))
    if mask is not None:
        _require(mask.dim() in (2, 4) and mask.dtype in (query.dtype, torch.float32), "mask")
        of_mask = zip(mask.shape, whole[-mask.dim() :], strict=True)
        _require(all(size in (1, expected) for size, expected in of_mask), "mask")
    if "logsumexp" in given:
        _like(given["grad_out"], query, "gradient")
        _like(given["out"], query, "output")
        sums = given["logsumexp"]
        _require(sums.numel() == query[..., 0].numel(), "logsumexp")
        _require(sums.shape == whole[:3] and sums.dtype.is_floating_point, "logsumexp")


def _lstm(given: _Arguments) -> None:
    """Check the arguments of an LSTM layer; its kernel trusts the sizes given as numbers."""
    names = [f"weight{number}" for number in range(4)]
    if "weight4" in given:
        names = [f"weight{number}" for number in range(1, 5)]
    states = [given["hx_"], given["cx_tmp" if "cx_tmp" in given else "cx_"]]
    values, weights = given["input"], [given[name] for name in names]
    tensors = [values, *weights, *states]
    _require(all(one.dtype == torch.float32 for one in tensors), "type")
    size = given["hidden_size"]
    is_plain = given["mode"] == 2 and given["num_layers"] == 1 and not given["bidirectional"]
    _require(is_plain and size > 0 and not given["batch_sizes"], "mode")
    _require(values.dim() == 3, "input")
    shapes = [(4 * size, values.size(2)), (4 * size, size), (4 * size,), (4 * size,)]
    _require([tuple(one.shape) for one in weights] == shapes, "weight")
    batch = values.size(0 if given["batch_first"] else 1)
    _require(all(one.numel() == batch * size for one in states), "state")
    _require(all(tuple(one.shape[-2:]) == (batch, size) for one in states), "state")
    if "workspace" not in given:
        return
    options = ("reverse", "batch_sizes", "mode", "hidden_size", "num_layers", "has_biases")
    flags = [given[name] for name in (*options, "bidirectional", "batch_first")]
    with torch.enable_grad():  # otherwise no workspace is returned
        expected = torch.ops.aten.mkldnn_rnn_layer(values, *weights, *states, *flags, True)
    for number, name in enumerate(("output", "hy_", "cy_", "workspace")):
        _like(given[name], expected[number], name)
    for number, name in enumerate(("grad_output", "grad_hy", "grad_cy")):
        _like(given[name], expected[number], name)


def _searchsorted(given: _Arguments) -> None:
    _require(given["sorter"] is None, "sorter")


_CHECKS: Final[dict[str, Callable[[_Arguments], None]]] = {
    "embedding": _embedding,
    "embedding_dense_backward": _embedding_backward,
    "nll_loss_forward": _nll,
    "nll_loss_backward": _nll,
    "nll_loss2d_forward": _nll,
    "nll_loss2d_backward": _nll,
    "max_pool2d_with_indices_backward": _max_pool_backward,
    "_adaptive_avg_pool2d_backward": _adaptive_pool_backward,
    "avg_pool2d_backward": _avg_pool_backward,
    "glu_backward": _glu_backward,
    "_softmax_backward_data": _softmax_backward,
    "_log_softmax_backward_data": _softmax_backward,
    "convolution_backward": _convolution_backward,
    "native_layer_norm_backward": _layer_norm_backward,
    "native_group_norm": _group_norm,
    "native_group_norm_backward": _group_norm,
    "native_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention,
    "mkldnn_rnn_layer": _lstm,
    "mkldnn_rnn_layer_backward": _lstm,
    "searchsorted": _searchsorted,
}

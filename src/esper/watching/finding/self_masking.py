"""Output layers that mask choices themselves, so the -inf in their output is intended."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from esper.tracing.tracer import OperationTracer
from esper.tracing.without_compiler import without_compiler
from esper.watching.checks.device_flags import KINDS, ReadFlags
from esper.watching.checks.looks import kinds_of, masks_by_itself
from esper.watching.finding.explaining import traced
from esper.watching.finding.repeating.put_back import everything_put_back


@dataclass(frozen=True)
class LayerCall:
    """One call of the output layer.

    Attributes:
        layer: the layer.
        args: its positional arguments.
        kwargs: its keyword arguments.
        output: its result.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor

    @property
    def taken(self) -> Tensor | None:
        """The layer's input; None if it is not a tensor."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()), None)
        return first if isinstance(first, Tensor) else None

    @property
    def can_mask(self) -> bool:
        """Whether the layer's class may mask its output; torch's own classes do not."""
        return not type(self.layer).__module__.startswith("torch.")


class SelfMasking:
    """Decides whether the -inf in an output comes from the layer's own mask.

    For a subclass of `nn.Linear`, each call is checked: its output is computed without the mask.
    For other classes, a call is repeated under the tracer when its output first has -inf, and then
    at doubling intervals; in between, the last result is used.
    """

    def __init__(self) -> None:
        self._calls = 0  # number of calls with -inf in the output
        self._is_masked = False  # result of the last check
        self._last: LayerCall | None = None

    def is_masked(self, call: LayerCall) -> bool:
        """Return whether all non-finite values in the output of a call are those of a mask."""
        if not call.can_mask or kinds_of(call.output) != ("-inf",):
            return False
        if masks_by_itself(call.layer, call.taken, call.output):
            return True
        if self._is_due():
            self._is_masked = bool(_is_masked_again(call))
        return self._is_masked

    def _is_due(self) -> bool:
        """Count a call with -inf in its output; return whether it must be repeated."""
        self._calls += 1
        return not self._is_masked or self._calls & (self._calls - 1) == 0

    def hold(self, call: LayerCall) -> None:
        """Hold a call until the flags of its update are read, if its layer may mask."""
        if call.can_mask:
            self._last = call

    def without_masks(self, flags: ReadFlags) -> ReadFlags:
        """Return flags of outputs without the -inf of masks.

        The held call is checked, at doubling intervals. If it has no -inf, or the weights broke
        after it, the flags are removed: the -inf had no effect, or the gradients have flags, too.
        """
        call, self._last = self._last, None
        row = KINDS.index("-inf")
        if call is None or not any(flags.columns[row]):
            return flags
        if self._is_due() and kinds_of(call.output) == ("-inf",):
            is_linear = masks_by_itself(call.layer, call.taken, call.output)
            is_masked = is_linear or _is_masked_again(call)
            if is_masked is False:
                self._is_masked = False
                return flags
            self._is_masked |= bool(is_masked)
        columns = list(flags.columns)
        columns[row] = [0 for _ in columns[row]]
        return replace(flags, columns=columns)


@torch.no_grad()
def _is_masked_again(call: LayerCall) -> bool | None:
    """Return whether all -inf in a repetition of a call come from masks; None without any -inf."""
    named = {f"weight {name}": one.detach() for name, one in call.layer.named_parameters()}
    try:
        with (
            without_compiler(OperationTracer),
            everything_put_back([call.layer], []),
            traced([call.layer], named) as tracer,
        ):
            output = call.layer.forward(*call.args, **call.kwargs)
    except Exception:  # noqa: BLE001 - a layer of the training may raise anything
        return None
    if not isinstance(output, Tensor) or kinds_of(output) != ("-inf",):
        return None
    makers = tracer.makers(output)
    return bool(makers) and all(maker.is_legal for maker in makers)

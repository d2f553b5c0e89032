"""Names tensors that are made of arrays and lists while operations are traced.

No operation computes their values, so the tracer cannot tell where these come from.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from esper.leyline.text.source_paths import short_path
from esper.tracing.operations import ARRAY, LIST, Place

#: Functions of torch that make a tensor of data.
_MAKING: Final = ("from_numpy", "as_tensor", "tensor", "asarray")


class ArraysNamed:
    """While it is open, names tensors that torch makes of NumPy arrays, lists and tuples.

    Args:
        place: returns the source line that is running.
        name: names a tensor that no operation made.

    Attributes:
        current: name of the data of which a tensor is being made; empty otherwise.
    """

    def __init__(self, place: Callable[[], Place], name: Callable[[str, Tensor], None]) -> None:
        self._place = place
        self._name = name
        self.current = ""
        self._originals: dict[str, Callable[..., Any]] = {}

    def open(self) -> None:
        """Begin to name tensors."""
        self._originals = {name: vars(torch)[name] for name in _MAKING}
        for name, original in self._originals.items():
            vars(torch)[name] = self._naming(name, original)

    def close(self) -> None:
        """Stop, and restore the functions of torch."""
        vars(torch).update(self._originals)

    def _naming(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def make(*args: Any, **kwargs: Any) -> Any:
            data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
            is_array = isinstance(data, np.ndarray)
            if self.current or not (is_array or isinstance(data, (list, tuple))):
                return original(*args, **kwargs)
            place = self._place()
            line = f"torch.{name}(...) at {short_path(place.file)}:{place.line}"
            self.current = f"{ARRAY if is_array else LIST}{line}"
            try:
                result = original(*args, **kwargs)
                if isinstance(result, Tensor) and result.is_floating_point():
                    with _disable_current_modes():
                        self._name(self.current, result)
            finally:
                self.current = ""
            return result

        return make

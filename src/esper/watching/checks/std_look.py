"""The check for standard deviations that are infinite although all weights are finite."""

from collections.abc import Callable, Sequence

from torch import Tensor

from esper.watching.model.parts import Part, log_std_excess


class StdLook:
    """Checks standard deviations while acting, once per update at most.

    Args:
        parts: all parameters.

    Attributes:
        excess: returns by how much a standard deviation is too large; see `log_std_excess`.
        calls: number of calls while acting, since the last step, which sets it to 0.
        overflows: whether one was too large at the end of the last update; only set when flags on
            the device are used.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.excess: Callable[[], Tensor | None] = log_std_excess(parts)
        self.overflows = False
        self.calls = 0
        self._looked_at = 0  # number of the last update in which one overflowed

    def has_infinite(self, update: int) -> bool:
        """Return, once per update, whether actions are drawn with an infinite standard deviation.

        The model may clamp it, so this only triggers the full check. Weights change only at steps:
        it is checked at the first acting call after a step, and then at doubling intervals.

        Args:
            update: number of the current update.
        """
        self.calls += 1
        if self.calls & (self.calls - 1) or self._looked_at == update:
            return False
        excess = self.excess()
        if excess is None or excess.item() <= 0:
            return False
        self._looked_at = update
        return True

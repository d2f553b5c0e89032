"""Which elements of a tensor are NaN, +Inf or -Inf: one code per element.

A code is 0 where a value is finite or legal, otherwise the index of its kind in `KINDS`. Codes of
two passes over the same minibatch can be compared element by element.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

KINDS = ("", "nan", "+inf", "-inf")

#: Codes of several tensors, by name.
Codes = dict[str, Tensor]


def code_of(values: Tensor) -> Tensor:
    """Return the codes of values, uint8, in the same shape."""
    codes = values.isnan().to(torch.uint8)
    codes += 2 * (values == torch.inf)
    codes += 3 * (values == -torch.inf)
    return codes


def code_of_nonnegative(values: Tensor) -> Tensor:
    """Return the codes of values that must not be negative: a negative one counts as NaN."""
    return code_of(values).masked_fill((values < 0) & (values > -torch.inf), KINDS.index("nan"))


def code_of_scale(loss_scale: Tensor) -> Tensor:
    """Return the code of a loss scale, a scalar: below 1 counts as NaN, since 0 cannot grow."""
    return code_of(loss_scale).masked_fill(
        (loss_scale < 1) & (loss_scale > -torch.inf), KINDS.index("nan")
    )


def is_any(codes: Codes) -> bool:
    """Return whether any element of any tensor has a code."""
    return any(bool(values.any()) for values in codes.values())


def difference(codes: Tensor, other: Tensor) -> Tensor:
    """Return codes with 0 where `other` has the same code."""
    return codes.masked_fill(codes == other, 0)


@dataclass(frozen=True)
class StateCodes:
    """Codes of the state that an update starts from or leaves behind.

    `readers.STATE` says how each field is read.
    """

    parameters: Tensor  # [P]
    first_moment: Tensor  # [P]; exp_avg of Adam
    second_moment: Tensor  # [P]; exp_avg_sq of Adam; negative counts as NaN, as its root is
    step: Tensor  # scalar; Adam's step counter; negative counts as NaN
    loss_scale: Tensor  # scalar; below 1 counts as NaN

    @property
    def is_bad(self) -> bool:
        """Return whether anything has a code."""
        return is_any(self.__dict__)

    def without(self, known: Tensor) -> "StateCodes":
        """Return the codes without those of parameters that equal the `known` ones, `[P]`."""
        unknown = difference(self.parameters, known.to(self.parameters.device))
        return replace(self, parameters=unknown)

    @property
    def moments(self) -> Tensor:
        """Return one code for both moments of each parameter, `[P]`; the first one's if both."""
        return torch.where(self.first_moment > 0, self.first_moment, self.second_moment)

    def where_finite_in(self, other: "StateCodes") -> "StateCodes":
        """Return the codes with 0 wherever `other` has a code, too."""
        mine, others = self.__dict__, other.__dict__
        return StateCodes(
            **{name: codes.masked_fill(others[name] > 0, 0) for name, codes in mine.items()}
        )

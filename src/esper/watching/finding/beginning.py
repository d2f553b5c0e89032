"""Names the owner and the quantity of a finding after its first operation.

The value found at the optimizer's step is often a consequence that all heads share, such as the
loss. The first operation shows which head or group computed it, and the source code shows to which
variable it was assigned.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from esper.leyline.telemetry import SHARED
from esper.tracing.operations import Operation
from esper.watching.checks.found import Found
from esper.watching.finding.source import variable_assigned_at
from esper.watching.model.heads import OUTPUT_QUANTITIES, Head
from esper.watching.model.parts import Part, is_log_std, squares_overflow

#: Quantities that are named after the model, not after a variable.
_OF_MODELS = frozenset({"parameters", "moments", "gradient", *OUTPUT_QUANTITIES.values()})
#: Operations that square a standard deviation.
_SQUARES = frozenset({"pow", "square", "mul"})
#: Variables with one number for each dimension of a Gaussian.
_OF_DIMENSIONS = re.compile(r"(^|[._])(log_?std|std|scale|sigma|log_?sigma|mu|loc|means?)(\b|_)")


@dataclass(frozen=True)
class Owners:
    """The owners (heads and groups) of the parts of the models.

    Attributes:
        models: the watched models.
        parts: their parameters.
        heads: their heads.
        groups: pattern of each group, by name.
    """

    models: Sequence[nn.Module]
    parts: Sequence[Part]
    heads: Sequence[Head] = ()
    groups: Mapping[str, re.Pattern[str]] = field(default_factory=dict)

    def of_module(self, name: str) -> str:
        """Return the head or group that a module belongs to.

        A module belongs to the group whose pattern its path matches, or to the owner of its
        parameters. One without parameters, such as an activation, belongs to the module around it.

        Args:
            name: the tracer's name of the module: the model's class and the path inside it.
        """
        owner_of = {id(part.parameter): part.owner or SHARED for part in self.parts}
        for model in self.models:
            cls, _, path = name.partition(".")
            if cls != type(model).__name__:
                continue
            while path:
                module = _submodule(model, path)
                if module is None:
                    break
                owners = {owner_of.get(id(one), SHARED) for one in module.parameters()}
                if len(owners) == 1 and owners != {SHARED}:
                    return owners.pop()
                groups = [name for name, one in self.groups.items() if one.match(f"{path}.")]
                if groups or owners:
                    return groups[0] if groups else SHARED
                path = path.rpartition(".")[0]
        return SHARED

    def of_columns(self, operation: Operation, variable: str) -> list[str]:
        """Return the heads of the columns in which an operation's result is not finite.

        Only an operation that computes one number for each output of the heads has such columns;
        for any other the list is empty.
        """
        if operation.columns is None:
            return []
        size, bad = operation.columns
        taken = {part.of for part in operation.inputs}
        for part in self.parts:
            if not part.rows or part.rows[-1][1].stop != size:
                continue
            path = part.name.rpartition(".")[0]
            is_own = f"weight {part.name}" in taken or (
                path and operation.module.partition(".")[2] == path
            )
            if is_own or self._are_dimensions(size, variable):
                return [owner for owner, rows in part.rows if not bad.isdisjoint(rows)]
        return []

    def of_variance(self, operation: Operation) -> tuple[Found, ...]:
        """Return the heads whose finite standard deviation has an infinite square.

        Args:
            operation: the operation that may have squared it.
        """
        if operation.base not in _SQUARES or operation.columns is None:
            return ()
        size, bad = operation.columns
        return tuple(
            Found(owner, "variance", kind, part.name)
            for part in self.parts
            if part.rows and part.rows[-1][1].stop == size and is_log_std(part)
            for owner, rows in part.rows
            if not bad.isdisjoint(rows) and bad <= squares_overflow(part)
            for kind in operation.outputs[0].kinds
        )

    def _are_dimensions(self, size: int, variable: str) -> bool:
        gaussian = [head for head in self.heads if head.kind == "gaussian"]
        return len(gaussian) == len(self.heads) == size and bool(_OF_DIMENSIONS.search(variable))


def as_it_began(
    found: tuple[Found, ...], operation: Operation, owners: Owners
) -> tuple[Found, ...]:
    """Return findings with the owner and the name of the first operation's result.

    The name is the variable that it was assigned to, or the output of its module, whose path is the
    part. Findings that already name a head, a parameter or an earlier bad tensor are not changed.

    Args:
        found: the findings in a minibatch; empty if no checked tensor was bad.
        operation: the first operation with a non-finite result.
        owners: owners of the parts of the models.
    """
    # A constant in the code, such as a fill value, does not count as an earlier bad tensor.
    is_computed = all(one.is_unnamed for one in operation.poisons)
    if not is_computed or any(one.index for one in operation.poisons):
        return found
    if any(one.part for one in found):
        return found
    named = [one for one in found if one.owner == SHARED or one.quantity not in _OF_MODELS]
    if found and not named:
        return found
    if variance := owners.of_variance(operation):
        return variance
    module = operation.module.partition(".")[2]
    variable = ""
    if operation.phase != "forward" or (found and found[0].quantity in _OF_MODELS):
        quantity = found[0].quantity if found else "output"
    else:
        place = operation.place
        variable = variable_assigned_at([(place.file, place.line), *place.callers])
        quantity = variable or (found[0].quantity if found else "output")
    heads = owners.of_columns(operation, quantity)
    if not heads:
        if found and operation.phase != "forward" and quantity not in _OF_MODELS:
            return found  # the backward pass cannot cause a fault in the forward pass
        heads = [owners.of_module(operation.module)]
        if module and not variable and quantity not in _OF_MODELS:
            quantity = "output"
    if heads == [SHARED] and found and quantity == found[0].quantity and not variable:
        return found
    kinds = operation.outputs[0].kinds if variable or not found else ()
    kinds = kinds or tuple(dict.fromkeys(one.kind for one in found))
    return tuple(Found(head, quantity, kind, module) for head in heads for kind in kinds)


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None

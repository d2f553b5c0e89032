"""Which head or group each row of each parameter belongs to."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from esper.leyline.telemetry import HOSTS, SHARED
from esper.watching.model.heads import Head, HeadsError, check_module
from esper.watching.model.shards import first_row, is_shared, local

#: Names that libraries give to the logarithms of the standard deviations of actions.
_LOG_STD: Final = ("log_std", "logstd", "actor_logstd", "log_std_parameter", "log_std_param")
#: Names that libraries give to standard deviations or their logarithms.
_STD: Final = (*_LOG_STD, "std_param", "std", "sigma_param")
#: Further owners by name: modules, or regular expressions over the names of parameters.
Groups = Mapping[str, str | re.Pattern[str] | nn.Module]


@dataclass(frozen=True)
class Part:
    """A parameter and the owner of each of its rows.

    Attributes:
        name: name of the parameter in the model.
        parameter: the parameter.
        owner: the head or group that owns all of it; empty if its rows have several owners.
        rows: the head that owns each range of rows, if rows have several owners.
    """

    name: str
    parameter: nn.Parameter
    owner: str
    rows: tuple[tuple[str, range], ...] = ()

    def owners_of(self, bad: Tensor) -> list[str]:
        """Return the owners of the elements that a mask of the parameter's shape selects.

        If the parameter is sharded, the mask has the shape of this process's shard.
        """
        if not bad.numel():
            return []
        if not self.rows:
            return [self.owner] if bool(bad.any()) else []
        by_row = bad.reshape(len(bad), -1).any(1)
        return [
            name for name, rows in self.local_rows() if bool(by_row[rows.start : rows.stop].any())
        ]

    def local_rows(self) -> tuple[tuple[str, range], ...]:
        """Return `rows` with the row numbers of this process's shard of the parameter."""
        if not is_shared(self.parameter):
            return self.rows
        first, number = first_row(self.parameter), len(local(self.parameter))
        shifted = (
            (name, range(max(rows.start - first, 0), min(rows.stop - first, number)))
            for name, rows in self.rows
        )
        return tuple((name, rows) for name, rows in shifted if rows)


def parts_of(
    models: Sequence[nn.Module],
    heads: Sequence[Head],
    output_layer: nn.Module | None,
    groups: Groups | None = None,
) -> list[Part]:
    """Return every parameter of some models with its owner.

    Args:
        models: the models that are trained.
        heads: their heads.
        output_layer: the layer that computes the output of heads with columns.
        groups: further owners by name: a module, or a regular expression that the beginning of a
            parameter's name must match. A parameter of several groups belongs to the first of
            them, in the order of the mapping, and one of a head to the head.

    Raises:
        HeadsError: a head or group is not part of the models, a group is not a regular expression,
            it matches no parameter, or all its parameters belong to earlier groups.
    """
    _check_names(groups, heads)
    patterns = patterns_of(groups)
    for head in heads:
        if head.module is not None:
            check_module(f"heads[{head.name!r}]", head.module, models)
    of_layer = set() if output_layer is None else {id(p) for p in output_layer.parameters()}
    with_columns = tuple((head.name, head.columns) for head in heads if head.columns is not None)
    of_heads: dict[int, str] = {}
    for head in heads:
        for parameter in [] if head.module is None else head.module.parameters():
            of_heads.setdefault(id(parameter), head.name)
    of_groups: dict[str, set[int]] = {}
    for group, module in (groups or {}).items():
        if isinstance(module, nn.Module):
            check_module(f"groups[{group!r}]", module, models)
            of_groups[group] = {id(parameter) for parameter in module.parameters()}
    tied = _tied(models)
    parts, seen = [], set()
    own: set[str] = set()  # groups that own parameters
    taken: dict[str, tuple[str, str]] = {}  # by group: one of its parameters, and that one's owner
    for model in models:
        for name, parameter in model.named_parameters():
            if id(parameter) in seen or not parameter.is_floating_point():  # quantized weights
                continue
            if parameter.is_meta:  # has no values yet
                continue
            seen.add(id(parameter))
            matching = [
                group
                for group in groups or ()
                if id(parameter) in of_groups.get(group, ())
                or (group in patterns and patterns[group].match(name))
            ]
            if matching:
                own.add(matching[0])
                taken |= dict.fromkeys(matching, (name, matching[0]))
            if id(parameter) in of_layer and id(parameter) not in tied and with_columns:
                parts.append(Part(name, parameter, "", with_columns))
            elif _is_std(name, parameter, len(with_columns)):
                # One standard deviation for each dimension of a Gaussian.
                rows = tuple((head, range(n, n + 1)) for n, (head, _) in enumerate(with_columns))
                parts.append(Part(name, parameter, "", rows))
            else:
                owner = of_heads.get(id(parameter)) or (matching[0] if matching else SHARED)
                parts.append(Part(name, parameter, owner))
    for group in patterns:
        if group not in taken:
            raise HeadsError(
                f"group {group!r} matches no parameter: give a regular expression that the "
                "beginning of a parameter's name matches, such as 'layers.0'"
            )
    for group, (name, owner) in taken.items():
        if group not in own:
            raise HeadsError(
                f"group {group!r} has no parameter left: {name} belongs to group {owner!r}, "
                f"which comes first. Put {group!r} first, or give each parameter to one group only"
            )
    return parts


def _check_names(groups: Groups | None, heads: Sequence[Head]) -> None:
    if groups is not None and not isinstance(groups, Mapping):
        raise HeadsError(
            "groups must be a dictionary, such as {'trunk': 'layers.0'}, not a "
            f"{type(groups).__name__}"
        )
    heads_of_name = {head.name for head in heads}
    for name in groups or {}:
        if not isinstance(name, str) or not name or name in (SHARED, HOSTS):
            raise HeadsError(f"a group cannot have the name {name!r}: give another")
        if name in heads_of_name:
            raise HeadsError(f"{name!r} is the name of a head, too: give the group another")


def _is_std(name: str, parameter: Tensor, dimensions: int) -> bool:
    """Return whether a parameter holds, or its layer computes, one std per dimension."""
    path = name.split(".")
    if path[-1] in _STD:
        return parameter.numel() == dimensions
    return len(path) > 1 and path[-2] in _STD and len(parameter) == dimensions


def _tied(models: Sequence[nn.Module]) -> set[int]:
    """Return the ids of the parameters that several modules share, such as tied embeddings."""
    uses = Counter(
        id(parameter)
        for module in {id(m): m for model in models for m in model.modules()}.values()
        for parameter in module._parameters.values()
        if parameter is not None
    )
    return {parameter for parameter, count in uses.items() if count > 1}


def log_std_excess(parts: Sequence[Part]) -> Callable[[], Tensor | None]:
    """Return a function that checks whether the variance of an action overflows.

    A parameter that is the logarithm of a standard deviation may be finite although the standard
    deviation or its square, by which log-probabilities divide, is infinite. The function returns a
    scalar on the device, above 0 if one overflows; None if there is no such parameter.
    """
    both = [(part.parameter, _largest_log_std(part)) for part in parts if is_log_std(part)]

    def excess() -> Tensor | None:
        own = [(local(one.detach()), limit) for one, limit in both]
        each = [one.amax().float() - limit for one, limit in own if one.numel()]
        if len(each) > 1:
            return torch.stack([one.to(each[0].device) for one in each]).amax()
        return each[0] if each else None

    return excess


def device_of(parts: Sequence[Part]) -> torch.device:
    """Return the device of the first parameter, or the CPU if there is none."""
    return parts[0].parameter.device if parts else torch.device("cpu")


def is_log_std(part: Part) -> bool:
    """Return whether a parameter is the logarithm of the standard deviations of heads."""
    return bool(part.rows) and part.name.rpartition(".")[2] in _LOG_STD


def squares_overflow(part: Part) -> frozenset[int]:
    """Return the dimensions of a logarithm of standard deviations whose variance is infinite."""
    values = local(part.parameter.detach()).flatten()
    first = first_row(part.parameter)
    found = (values > _largest_log_std(part)).nonzero().flatten() + first
    return frozenset(found.tolist())


def _largest_log_std(part: Part) -> float:
    return math.log(torch.finfo(part.parameter.dtype).max) / 2


def bad_rows(part: Part, values: Tensor) -> list[str]:
    """Return the owners of the non-finite elements of `values`, shaped like the parameter."""
    values = local(values.detach())
    if values.layout is torch.sparse_coo:
        by_row = (~values._values().isfinite()).flatten(1).any(1)
        bad = torch.zeros(len(values), dtype=torch.bool, device=values.device)
        bad[values._indices()[0, by_row]] = True
        return part.owners_of(bad)
    bad = ~values.isfinite()
    if is_shared(part.parameter):
        return part.owners_of(bad)
    if part.rows and part.parameter.ndim != bad.ndim:
        bad = bad.reshape(part.parameter.shape)
    if part.rows and len(bad) != part.rows[-1][1].stop:
        bad = bad.reshape(part.rows[-1][1].stop, -1)  # log_std of shape [1, n]
    return part.owners_of(bad)


def patterns_of(groups: Groups | None) -> dict[str, re.Pattern[str]]:
    """Return the pattern of each group that is not a module, by name.

    Raises:
        HeadsError: a group is not a regular expression.
    """
    return {
        name: _compiled(name, pattern)
        for name, pattern in (groups or {}).items()
        if not isinstance(pattern, nn.Module)
    }


def _compiled(group: str, pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise HeadsError(
            f"group {group!r} is not a regular expression: {error} in {pattern!r}"
        ) from None
    except TypeError:
        raise HeadsError(
            f"group {group!r} must be a regular expression or a module of the model, not "
            f"{pattern!r}"
        ) from None

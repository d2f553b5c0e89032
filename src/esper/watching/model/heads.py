"""The heads of a model: the parts of its output with their own lights.

A head is one component of an action: a categorical choice, a dimension of a Gaussian, or the output
of a module. Heads that share one output layer are consecutive columns of the layer's last axis.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import nn

from esper.leyline.errors import EsperError
from esper.leyline.telemetry import HOSTS, SHARED

#: See `esper.leyline.telemetry.HEAD_KINDS`.
Kind = Literal["categorical", "binary", "gaussian", "value", "module", "reward", "group"]
#: Quantity that the output layer computes for a head, by kind.
OUTPUT_QUANTITIES: Final[Mapping[Kind, str]] = {
    "categorical": "logits",
    "binary": "logits",
    "gaussian": "mean",
    "value": "q_values",
}

#: Names that libraries give to the layer that computes logits or means of actions.
_ACTION_LAYER_NAMES = re.compile(
    r"(^|[._])(action|actor|policy|pi|mu|mean|logits|head|q_net)(_?net|_mean|_logits)?($|[._])"
)
#: Names that libraries give to layers that estimate values.
_VALUE_LAYER_NAMES = re.compile(r"(^|[._])(critic|values?|vf|v|baseline)\d*(_net|_head)?($|[._])")


class HeadsError(EsperError, ValueError):
    """The heads do not fit the model, or cannot be understood."""


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes:
        name: name, unique among the heads of a run.
        kind: meaning of its output.
        columns: its part of the output layer's last axis; None if a whole module is the head.
        module: the module whose output is the head; None for columns of a layer.
    """

    name: str
    kind: Kind
    columns: range | None = None
    module: nn.Module | None = None


def heads_of(heads: Any) -> tuple[Head, ...]:
    """Return the heads that a user described.

    Args:
        heads: a Gymnasium space, `{name: width}`, `{name: module}`, a list of `Head`, or None for
            no heads.

    Raises:
        HeadsError: `heads` is none of these, or a width is not a positive integer.
    """
    if heads is None:
        return ()
    if isinstance(heads, (list, tuple)) and all(isinstance(head, Head) for head in heads):
        return tuple(heads)
    if isinstance(heads, Mapping) and not hasattr(heads, "spaces"):  # a Dict space is a mapping
        return _heads_of_mapping(heads)
    widths = list(_components(heads, "action"))
    return _side_by_side(widths)


def gives_widths(heads: Any) -> bool:
    """Return whether a description of heads gives the width of each."""
    is_mapping = isinstance(heads, Mapping) and not hasattr(heads, "spaces")
    return is_mapping and not any(isinstance(value, nn.Module) for value in heads.values())


def output_width(heads: Sequence[Head]) -> int:
    """Return the width of the output layer that heads share; 0 if they share none."""
    return max((head.columns.stop for head in heads if head.columns is not None), default=0)


def find_output_layer(model: nn.Module, width: int) -> nn.Module | None:
    """Return the layer that computes the logits of all heads, or None if there is none.

    This is the last linear layer with this number of outputs. Layers with a name that libraries use
    for actors come first, and layers with a name that they use for value estimates come last.
    """
    candidates = [
        (name, module)
        for name, module in model.named_modules()
        if getattr(module, "out_features", None) == width
    ]
    others = [one for one in candidates if not _VALUE_LAYER_NAMES.search(one[0])] or candidates
    named = [module for name, module in others if _ACTION_LAYER_NAMES.search(name)]
    modules = named or [module for _, module in others]
    return modules[-1] if modules else None


def output_layer_of(
    models: Sequence[nn.Module], heads: Sequence[Head], given: nn.Module | None, *, is_exact: bool
) -> tuple[nn.Module | None, str]:
    """Return the layer that computes the outputs of heads, and a warning, which may be empty.

    Args:
        models: the watched models.
        heads: their heads.
        given: the layer, if it is known.
        is_exact: whether the user gave the width of each head, so a layer must have their sum. A
            space may have other outputs in addition, such as standard deviations next to means.

    Raises:
        HeadsError: widths were given, and no layer has their sum as its number of outputs.
    """
    width = output_width(heads)
    if not width:
        return given, ""
    layer = given
    for model in models if given is None else ():
        layer = find_output_layer(model, width) or layer
    outputs = getattr(layer, "out_features", width)
    if layer is not None and outputs == width:
        return layer, ""
    known = dict.fromkeys(
        size
        for model in models
        for module in model.modules()
        if isinstance(size := getattr(module, "out_features", None), int)
    )
    needed = f"{_count(width)} ({', '.join(f'{h.name} {len(h.columns or ())}' for h in heads[:6])}"
    needed += ", …)" if len(heads) > 6 else ")"
    has = f"the output layer has {outputs}" if layer is not None else _layers_have([*known])
    if is_exact and (layer is not None or known):
        raise HeadsError(
            f"the heads need a layer with {needed}, and {has}: give the widths of one layer, or "
            "{name: module} if each head has a separate layer"
        )
    if layer is None:
        return None, (
            f"the heads need a layer with {needed}, and {has}: outputs of the heads are not "
            "checked. Name the layer with output_layer="
        )
    which = f"only its first {width} belong to heads" if outputs > width else "some have none"
    return layer, f"the heads need a layer with {needed}, and {has}: {which}"


def _count(width: int) -> str:
    return "1 output" if width == 1 else f"{width} outputs"


def _layers_have(widths: Sequence[int]) -> str:
    if not widths:
        return "the model has no layer of known width"
    shown = ", ".join(map(str, widths[-8:]))
    return f"the layers of the model have {shown}" + (" and others" if len(widths) > 8 else "")


def check_module(what: str, module: nn.Module, models: Sequence[nn.Module]) -> None:
    """Raise an exception unless a module, or a parameter of it, is part of a model.

    Args:
        what: name of the module for the message, such as "heads['value']".
        module: the module.
        models: the watched models.

    Raises:
        HeadsError: the module is not part of a model.
    """
    if any(module is own for model in models for own in model.modules()):
        return
    parameters = {id(parameter) for model in models for parameter in model.parameters()}
    if not any(id(parameter) in parameters for parameter in module.parameters()):
        raise HeadsError(
            f"{what} is a {type(module).__name__} that is not part of the watched model: give a "
            "module of the model itself, not a copy"
        )


def _heads_of_mapping(heads: Mapping[Any, Any]) -> tuple[Head, ...]:
    for name in map(str, heads):
        if name in ("", SHARED, HOSTS):  # these are lights of their own
            raise HeadsError(f"a head cannot have the name {name!r}: give another")
    if all(isinstance(value, nn.Module) for value in heads.values()):
        return tuple(Head(str(name), "module", module=value) for name, value in heads.items())
    widths: list[tuple[str, Kind, int]] = []
    for name, width in heads.items():
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise HeadsError(
                f"heads[{str(name)!r}] must be a number of outputs (at least 1) or a module, "
                f"not {width!r}"
            )
        widths.append((str(name), "categorical", width))
    return _side_by_side(widths)


def _side_by_side(widths: Sequence[tuple[str, Kind, int]]) -> tuple[Head, ...]:
    heads, start = [], 0
    for name, kind, width in widths:
        heads.append(Head(name, kind, range(start, start + width)))
        start += width
    return tuple(heads)


def _components(space: Any, name: str) -> Iterator[tuple[str, Kind, int]]:
    """Yield name, kind and width of each component of a Gymnasium (or Gym) space."""
    kind = type(space).__name__
    if kind == "Discrete":
        yield name, "categorical", int(space.n)
    elif kind == "MultiDiscrete":
        for number, choices in enumerate(space.nvec.reshape(-1).tolist()):
            yield f"{name}[{number}]", "categorical", int(choices)
    elif kind == "MultiBinary":
        count = space.n if isinstance(space.n, int) else _product(space.n)
        for number in range(count):
            yield f"{name}[{number}]", "binary", 1
    elif kind == "Box":
        count = _product(space.shape)
        for number in range(count):
            yield (name if count == 1 else f"{name}[{number}]"), "gaussian", 1
    elif kind == "Dict":
        for key, part in space.spaces.items():
            yield from _components(part, key if name == "action" else f"{name}.{key}")
    elif kind == "Tuple":
        for number, part in enumerate(space.spaces):
            yield from _components(part, f"{name}[{number}]")
    else:
        raise HeadsError(
            f"heads must be a Gymnasium space (Discrete, MultiDiscrete, MultiBinary, Box, Dict or "
            f"Tuple), {{name: width}} or {{name: module}}, not {kind}"
        )


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= int(size)
    return product

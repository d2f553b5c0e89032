"""Derives the findings of an update from flags that were read at its end."""

from collections.abc import Sequence
from typing import Final

from esper.leyline.telemetry import SHARED
from esper.watching.checks.device_flags import KINDS, ReadFlags
from esper.watching.checks.found import Found
from esper.watching.model.heads import OUTPUT_QUANTITIES, Head
from esper.watching.model.parts import Part

FLAGS_ONLY: Final = (
    "flags were read after the update, when the minibatch was gone: watch with when='step' to find "
    "the operation"
)


def found_in_flags(
    flags: ReadFlags, heads: Sequence[Head], parts: Sequence[Part]
) -> tuple[Found, ...]:
    """Return the findings at the first bad step: non-finite outputs, or gradients if none."""
    step = flags.first_step
    found = []
    for head in heads:
        if head.columns is None:
            continue
        quantity = OUTPUT_QUANTITIES.get(head.kind, "output")
        for kind, columns in zip(KINDS, flags.columns, strict=True):
            if step in columns[head.columns.start : head.columns.stop]:
                found.append(Found(head.name, quantity, kind))
    if found:
        side_by_side = {head.name for head in heads if head.columns is not None}
        if len(side_by_side) > 1 and side_by_side == {one.owner for one in found}:
            # All heads are bad, so their shared input was bad before them.
            kinds = dict.fromkeys(one.kind for one in found)
            return tuple(Found(SHARED, "features", kind) for kind in kinds)
        return tuple(found)
    for kind, parameters in zip(KINDS, flags.parameters, strict=True):
        for part, seen in zip(parts, parameters, strict=True):
            if seen == step:
                owners = [part.owner] if not part.rows else [SHARED]
                found += [Found(owner, "gradient", kind, part.name) for owner in owners]
    of_heads = [one for one in found if one.owner != SHARED]
    return tuple(of_heads or found[:1])

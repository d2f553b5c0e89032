"""What a pass over the minibatches of an update left behind, as codes on the CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.simic.agent.detection.codes import Codes, StateCodes, is_any
from esper.simic.agent.detection.readers import backward_codes, forward_codes
from esper.simic.agent.detection.update_watch import UpdateWatch
from esper.simic.agent.figures import AT_ONCE, Figures, Trace
from esper.tamiyo.policy import HeadTable


@dataclass(frozen=True)
class PassCodes:
    """Codes of one pass.

    Attributes:
        prepared: codes of what each part of the preparation computed.
        minibatches: codes of the minibatches that were examined, forward and backward, by index.
        loss_scales: loss scale of each minibatch, `[M]`.
        end: codes of parameters, moments and loss scale after the last step.
        figures: figures of the pass.
    """

    prepared: list[Codes]
    minibatches: dict[int, Codes]
    loss_scales: Tensor
    end: StateCodes
    figures: Figures

    def is_bad(self, known: Tensor) -> bool:
        """Return whether anything has a code or a figure of a loss or gradient is not finite.

        Parameters with `known` codes `[P]` do not count.
        """
        examined = [*self.prepared, *self.minibatches.values()]
        figures = [self.figures.scalars[name] for name in AT_ONCE]
        return (
            self.end.without(known).is_bad
            or any(map(is_any, examined))
            or not all(bool(values.isfinite().all()) for values in figures)
        )


@torch.no_grad()
def codes_of_figures(
    traces: Sequence[Trace],
    prepared: Sequence[Codes],
    end: StateCodes,
    figures: Figures,
    table: HeadTable,
) -> PassCodes:
    """Return the codes of a pass in which only figures were checked.

    Only the minibatches whose figures are not finite are examined.
    """
    tripped = figures.tripped.nonzero().flatten().tolist()
    minibatches = {}
    for index in tripped:
        trace = traces[index]
        codes = forward_codes(trace.batch, trace.terms, trace.loss_scale, table)
        minibatches[index] = codes | backward_codes(trace.gradient, trace.derivatives)
    return _on_host(minibatches, prepared, traces, end, figures)


def codes_of_watch(
    traces: Sequence[Trace], prepared: Sequence[Codes], watch: UpdateWatch, figures: Figures
) -> PassCodes:
    """Return the codes of a pass in which everything was watched."""
    codes = zip(watch.forward_codes, watch.backward_codes, strict=True)
    minibatches = {index: forward | backward for index, (forward, backward) in enumerate(codes)}
    return _on_host(minibatches, prepared, traces, watch.state(), figures)


def _on_host(
    minibatches: Mapping[int, Codes],
    prepared: Sequence[Codes],
    traces: Sequence[Trace],
    end: StateCodes,
    figures: Figures,
) -> PassCodes:
    moved = to_host([*minibatches.values(), *prepared, end.__dict__])
    return PassCodes(
        prepared=moved[len(minibatches) : -1],
        minibatches=dict(zip(minibatches, moved, strict=False)),
        loss_scales=torch.stack([trace.loss_scale for trace in traces]).cpu(),
        end=StateCodes(**moved[-1]),
        figures=figures,
    )


def to_host(groups: Sequence[Mapping[str, Tensor]]) -> list[Codes]:
    """Return codes on the CPU, copied there in one transfer."""
    flat = [values.reshape(-1) for group in groups for values in group.values()]
    pieces = iter(torch.cat(flat).cpu().split([len(part) for part in flat]) if flat else ())
    return [
        {name: next(pieces).view(values.shape) for name, values in group.items()}
        for group in groups
    ]


def states_to_host(states: Sequence[StateCodes]) -> list[StateCodes]:
    """Return codes of states on the CPU, copied there in one transfer."""
    return [StateCodes(**codes) for codes in to_host([state.__dict__ for state in states])]

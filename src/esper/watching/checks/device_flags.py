"""Flags that stay on the device during an update and are read once, at its end.

Reading a number makes the CPU wait for the device. On a GPU this costs more than all other work of
a watch, so the flags of all steps are read together there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from esper.leyline.text.sighting_words import nonfinite_kind
from esper.watching.model.heads import Head, output_width
from esper.watching.model.parts import Part, device_of
from esper.watching.model.shards import local

#: Kinds of non-finite values, in the order of the rows of the flags.
KINDS = ("nan", "+inf", "-inf")


class DeviceFlags:
    """First step of an update at which each column and each parameter was not finite.

    Args:
        columns: width of the output layer; 0 without one; 1 for a single flag for the whole layer.
        parameters: number of parameters.
        device: device of the flags.
    """

    @classmethod
    def of(cls, heads: Sequence[Head], parts: Sequence[Part]) -> "DeviceFlags":
        """Return flags for the output layer of some heads, and all parameters."""
        # A single head, such as a vocabulary, needs only one flag for all its columns.
        is_vocabulary = sum(head.columns is not None for head in heads) == 1
        width = 1 if is_vocabulary else output_width(heads)
        return cls(width, len(parts), device_of(parts))

    def __init__(self, columns: int, parameters: int, device: torch.device) -> None:
        self._columns = torch.zeros(len(KINDS), columns, dtype=torch.int32, device=device)
        self._parameters = torch.zeros(len(KINDS), parameters, dtype=torch.int32, device=device)
        self._losses: list[tuple[int, Tensor]] = []
        self._norms = torch.zeros(3, dtype=torch.float64, device=device)  # sum, largest, number
        self._held: dict[int, Tensor] = {}  # norms of gradients by the parameter's number

    def note_output(self, output: Tensor, step: int) -> None:
        """Add an output of the layer, `[…, columns]`."""
        rows = output.detach().reshape(-1, output.shape[-1])
        if rows.shape[1] != self._columns.shape[1]:
            rows = torch.stack(torch.aminmax(rows)).unsqueeze(1)
        _note(self._columns, torch.stack([flags.any(0) for flags in _flags(rows)]), step)

    def hold_loss(self, loss: Tensor, step: int) -> None:
        """Hold a scalar until the flags are read."""
        self._losses.append((step, loss.detach()))

    def note_gradients(self, parameters: Sequence[Tensor], step: int) -> None:
        """Add the gradients of a step."""
        self.hold_gradients(parameters)
        self.note_held(step)

    def hold_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Hold the first norms of a part of a step's gradients until all are noted."""
        own = [n for n, parameter in enumerate(parameters) if parameter.grad is not None]
        if own:
            gradients = [local(one.grad) for one in parameters if one.grad is not None]
            self._held = dict(zip(own, torch._foreach_norm(gradients), strict=True)) | self._held

    def note_held(self, step: int) -> None:
        """Add the norms that are held, those of all gradients of a step."""
        if not self._held:
            return
        zero = torch.zeros((), device=self._norms.device)
        each = [self._held.get(n, zero) for n in range(self._parameters.shape[1])]
        norms = torch.stack([norm.float() for norm in each])
        self._held.clear()
        _note(self._parameters, torch.stack(_flags(norms)), step)
        total = torch.linalg.vector_norm(norms.double())
        finite = total.isfinite()
        total = torch.where(finite, total, 0.0)
        self._norms[0] += total
        self._norms[1] = torch.maximum(self._norms[1], total)
        self._norms[2] += finite

    def read(self, more: Tensor) -> tuple["ReadFlags", list[float]]:
        """Return all flags and clear them. This waits for the device, once.

        Args:
            more: further numbers to read in the same transfer, `[M]`.
        """
        losses = [loss for _, loss in self._losses]
        if len({(loss.dtype, loss.device, loss.shape) for loss in losses}) > 1:
            losses = [loss.to(more.device).float().reshape(()) for loss in losses]
        if losses:
            more = torch.cat(
                (torch.stack(losses).flatten().double().to(more.device), more.double())
            )
        counts = [self._columns.flatten(), self._parameters.flatten(), self._norms, more]
        values = torch.cat([one.double() for one in counts]).tolist()
        further = [values.pop() for _ in range(len(more))][::-1]
        steps = [step for step, _ in self._losses]
        kinds = [(step, nonfinite_kind(v)) for step, v in zip(steps, further, strict=False)]
        bad_losses = [(step, kind) for step, kind in kinds if kind]
        further = further[len(steps) :]
        self._losses.clear()
        norms = values[-3], values[-2], int(values[-1])
        columns, parameters = self._columns.shape[1], self._parameters.shape[1]
        rows = iter(int(value) for value in values[:-3])
        found = ReadFlags(
            [list(islice(rows, columns)) for _ in KINDS],
            [list(islice(rows, parameters)) for _ in KINDS],
            norms,
            next(iter(bad_losses), None),
        )
        for tensor in (self._columns, self._parameters, self._norms):
            tensor.zero_()
        return found, further


@dataclass(frozen=True)
class ReadFlags:
    """Flags that were read from the device.

    Attributes:
        columns: first bad step of each column of the output, counted from 1; by kind.
        parameters: first bad step of the gradient of each parameter; by kind.
        norms: sum, maximum and number of the finite gradient norms.
        bad_loss: step and kind of the first loss that was not finite; None if all were finite.
    """

    columns: Sequence[Sequence[int]]
    parameters: Sequence[Sequence[int]]
    norms: tuple[float, float, int]
    bad_loss: tuple[int, str] | None = None

    @property
    def first_step(self) -> int:
        """The first step with anything non-finite; 0 if there was none."""
        steps = [step for rows in (*self.columns, *self.parameters) for step in rows if step]
        return min(steps, default=0)


def _flags(values: Tensor) -> list[Tensor]:
    return [values.isnan(), values == torch.inf, values == -torch.inf]


def _note(first: Tensor, flags: Tensor, step: int) -> None:
    first.copy_(torch.where((first == 0) & flags, step, first))

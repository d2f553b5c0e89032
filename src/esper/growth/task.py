"""What a task is: samples in three parts, how raw samples become inputs, and what classes mean."""

from dataclasses import dataclass
from typing import Literal

import torch

#: Where raw samples have their channels: before the positions, after them, or not at all.
ChannelAxis = Literal["first", "last", "none"]


class InvalidTaskError(ValueError):
    """The data of a task cannot be used, or its parts do not fit together."""


@dataclass(frozen=True)
class Standardisation:
    """What is subtracted from raw inputs, and then divided by, in each channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def apply(self, inputs: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return raw inputs `[n, C, ...]` with about the mean 0 and the deviation 1."""
        mean, deviation = self._by_channel(inputs, dtype)
        return (inputs.to(dtype) - mean) / deviation

    def undo(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the raw inputs `[n, C, ...]` that standardised ones came from."""
        mean, deviation = self._by_channel(inputs, inputs.dtype)
        return inputs * deviation + mean

    def _by_channel(
        self, like: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (-1, *(1,) * (like.dim() - 2))
        mean = torch.tensor(self.mean, dtype=dtype, device=like.device).view(shape)
        deviation = torch.tensor(self.deviation, dtype=dtype, device=like.device).view(shape)
        return mean, deviation


@dataclass(frozen=True)
class Split:
    """One part of a task's data.

    Attributes:
        inputs: `[n, *input_shape]`: floating point and ready for hosts; or bytes, which take a
            quarter of the memory, with the standardisation that makes them ready; or symbols.
        labels: `[n]`, int64, from 0 to classes - 1.
        standardisation: of bytes, applied to each minibatch when it is used; else None.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    standardisation: Standardisation | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def ready(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return some of these inputs, `[m, C, ...]`, as hosts take them."""
        return inputs if self.standardisation is None else self.standardisation.apply(inputs)


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        name: its name.
        train: what the hosts learn from.
        validation: what their accuracy is measured on, for the agent to see and be paid for.
        test: for final scores alone.
        classes: how many there are.
        channels: of a host for it, unless its maker says otherwise: too few, so that growth has
            something to win.
        standardisation: what raw inputs go through to become ready; None if nothing.
        channel_axis: where raw inputs have their channels.
        class_names: what each label stands for; empty if the numbers themselves are the names.
        vocabulary: where inputs are symbols, the symbol of each number; else empty.

    Raises:
        InvalidTaskError: a part is empty, or its shapes, labels or types do not fit.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    channels: int = 8
    standardisation: Standardisation | None = None
    channel_axis: ChannelAxis = "first"
    class_names: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            where = f"the {part} part of task {self.name!r}"
            if len(split) == 0 or len(split.inputs) != len(split.labels):
                raise InvalidTaskError(
                    f"{where} has {len(split.inputs)} inputs and {len(split.labels)} labels: "
                    "it needs as many of one as of the other, and at least one"
                )
            if split.inputs.shape[1:] != self.train.inputs.shape[1:]:
                raise InvalidTaskError(
                    f"{where} has inputs of shape {tuple(split.inputs.shape[1:])}: all parts must "
                    f"have those of the train part, {tuple(self.train.inputs.shape[1:])}"
                )
            if not self._can_be_read(split) or split.labels.dtype != torch.int64:
                raise InvalidTaskError(
                    f"{where} must have int64 labels and floating inputs, bytes with their "
                    "standardisation, or whole numbers below the size of the vocabulary"
                )
            if split.labels.min() < 0 or split.labels.max() >= self.classes:
                raise InvalidTaskError(f"{where} has labels outside 0 to {self.classes - 1}")

    def _can_be_read(self, split: Split) -> bool:
        if self.vocabulary:
            whole = not split.inputs.is_floating_point()
            least, most = (int(value) for value in split.inputs.aminmax())
            return whole and least >= 0 and most < self.symbols
        return split.inputs.is_floating_point() or split.standardisation is not None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input: `(F,)`, `(C, L)` or `(C, H, W)`; of symbols, `(L,)`."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def symbols(self) -> int:
        """How many different symbols inputs are made of; 0 where they are measurements."""
        return len(self.vocabulary)

    @property
    def dtype(self) -> torch.dtype:
        """The floating type that hosts compute in."""
        inputs = self.train.inputs
        return inputs.dtype if inputs.is_floating_point() else torch.float32

    def raw(self, split: Split) -> torch.Tensor:
        """Return the inputs of a part as they were before they were made ready."""
        inputs = split.inputs
        if self.standardisation is not None and split.standardisation is None:
            inputs = self.standardisation.undo(inputs)
        if self.channel_axis == "none":
            return inputs.squeeze(1)
        return inputs.movedim(1, -1) if self.channel_axis == "last" else inputs

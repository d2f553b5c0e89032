"""A task: samples in three parts, standardisation of raw samples, and names of the classes."""

from dataclasses import dataclass
from typing import Literal

import torch

from esper.leyline.errors import EsperError

#: Axis of the channels in raw samples: before the positions, after them, or none.
ChannelAxis = Literal["first", "last", "none"]
#: Float32 distinguishes values up to this many standard deviations from 0; beyond that a
#: raw value loses digits that matter when it is rounded to float32.
_FLOAT32_RANGE = 1e3
_FLOAT32 = torch.finfo(torch.float32)


class InvalidTaskError(EsperError, ValueError):
    """The data of a task cannot be used, or its parts are inconsistent."""


@dataclass(frozen=True)
class Standardisation:
    """The mean that is subtracted from raw inputs and the std they are divided by, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def needs_float64(self) -> bool:
        """Whether the subtraction would lose significant digits in float32."""
        return any(
            abs(mean) > _FLOAT32_RANGE * std or not _FLOAT32.tiny <= std <= _FLOAT32.max
            for mean, std in zip(self.mean, self.std, strict=True)
        )

    def apply(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return raw inputs `[n, C, ...]` with a mean of about 0 and a std of about 1, float32."""
        dtype = torch.float64 if self.needs_float64 else torch.float32
        return self.apply_as(inputs, dtype).float()

    def apply_as(self, inputs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Do the same in a given precision, which is also that of the result."""
        mean, std = self._by_channel(inputs, dtype)
        return (inputs.to(dtype) - mean) / std

    def undo(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the raw inputs `[n, C, ...]` of standardised ones, in float64."""
        mean, std = self._by_channel(inputs, torch.float64)
        return inputs.double() * std + mean

    def _by_channel(
        self, like: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (-1, *(1,) * (like.dim() - 2))
        mean = torch.tensor(self.mean, dtype=dtype, device=like.device).view(shape)
        std = torch.tensor(self.std, dtype=dtype, device=like.device).view(shape)
        return mean, std


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

    @property
    def largest_class(self) -> float:
        """The share of the most frequent class: the accuracy of always answering with it."""
        return float(self.labels.bincount().max()) / len(self)

    def ready(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs `[m, C, ...]` of this part, standardised for hosts."""
        return inputs if self.standardisation is None else self.standardisation.apply(inputs)


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        name: its name.
        train: samples that hosts are trained on.
        validation: samples for the accuracy that the agent observes and is rewarded for.
        test: samples for final scores only.
        classes: number of classes.
        channels: default channels of a host; too few on purpose, so that growth can help.
        standardisation: applied to raw inputs; None where inputs are used as they are.
        channel_axis: where raw inputs have their channels.
        class_names: the text for each class; empty if the class numbers are the names.
        class_labels: the label of each class as the user's data has it; empty if that is the
            number of the class.
        vocabulary: where inputs are symbols, the symbol of each number; else empty.
        description: how samples are interpreted, and why; empty if the shape is enough.
        drawn: the parts that were drawn from the training part of the user's data.
        fingerprint: hash of the raw samples; empty if they cannot change.
        notes: sentences about the data, shown before training.

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
    class_labels: tuple[object, ...] = ()
    vocabulary: tuple[str, ...] = ()
    description: str = ""
    drawn: tuple[str, ...] = ()
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            where = f"the {part} part of task {self.name!r}"
            if len(split) == 0 or len(split.inputs) != len(split.labels):
                raise InvalidTaskError(
                    f"{where} has {len(split.inputs)} inputs and {len(split.labels)} labels: "
                    "it needs one label per input, and at least one input"
                )
            if split.inputs.shape[1:] != self.train.inputs.shape[1:]:
                raise InvalidTaskError(
                    f"{where} has inputs of shape {tuple(split.inputs.shape[1:])}: all parts must "
                    f"have the shape of the train part, {tuple(self.train.inputs.shape[1:])}"
                )
            if not self._can_be_read(split) or split.labels.dtype != torch.int64:
                raise InvalidTaskError(
                    f"{where} must have int64 labels, and inputs that are floating point, uint8 "
                    "with a standardisation, or whole numbers below the vocabulary size"
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
        """Size of the vocabulary of symbol inputs; 0 for measurements."""
        return len(self.vocabulary)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the hosts."""
        inputs = self.train.inputs
        return inputs.dtype if inputs.is_floating_point() else torch.float32

    def raw(self, split: Split) -> torch.Tensor:
        """Return the raw inputs of a part, before standardisation."""
        inputs = split.inputs
        if self.standardisation is not None and split.standardisation is None:
            inputs = self.standardisation.undo(inputs)
        if self.channel_axis == "none":
            return inputs.squeeze(1)
        return inputs.movedim(1, -1) if self.channel_axis == "last" else inputs

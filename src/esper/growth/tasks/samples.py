"""Raw samples of a user's data, with the rows that they came from."""

from dataclasses import dataclass, field

import numpy as np

from esper.leyline.text.plurals import plural


@dataclass(frozen=True)
class Samples:
    """Samples of one part of a task.

    Attributes:
        where: the name of the array that the user gave, for messages.
        inputs: `[n, C, *P]`, raw.
        labels: the class of each sample, `[n]`, int64.
        rows: the row of each sample in that array, `[n]`; by default all rows in order.
    """

    where: str
    inputs: np.ndarray
    labels: np.ndarray
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        if not len(self.rows):
            object.__setattr__(self, "rows", np.arange(len(self.labels)))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Samples":
        """Return some of the samples."""
        return Samples(self.where, self.inputs[index], self.labels[index], self.rows[index])


def counted(number: int, name: str, plural_form: str = "") -> str:
    """Return a number with separators between thousands, and its noun: "60,000 images"."""
    return f"{number:,} {plural(number, name, plural_form)}"

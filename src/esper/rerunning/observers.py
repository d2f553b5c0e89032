"""Source files whose operations only read the tensors of training."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from esper import watching


def files_of(buffer: type) -> Iterator[str]:
    """Yield the source files of a class of rollout buffers; they only fetch minibatches."""
    for cls in buffer.__mro__[:-1]:
        yield str(sys.modules[cls.__module__].__file__)


def _observers() -> tuple[str, ...]:
    """Return the source files of the watch, which only read the tensors of training."""
    folder = Path(watching.__file__).parent
    return tuple(str(file) for file in folder.rglob("*.py"))


#: Source files of the watch.
OBSERVERS: Final = _observers()
